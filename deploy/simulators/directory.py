"""Simulator of user management: serves the users of a tenant and publishes UserDeactivated.

Every tenant has the users of users.json; deactivated users are stored by tenant in a file of the stack.
`python -m deploy.simulators.directory` serves DirectoryService at BILLING_LISTEN, for tokens signed by a key of
BILLING_SERVICE_JWKS; `make up` starts it. `… deactivate erin [--tenant acme]` deactivates a user and publishes
UserDeactivated; `… activate erin` activates the user again. `make deactivate-user WHO=erin` uses the local stack.
"""

import argparse
import asyncio
import json
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import jwt
import nats
from google.protobuf import json_format
from grpc import StatusCode, aio
from nats.js import JetStreamContext
from outside.users.v1 import directory_service_pb2 as pb
from outside.users.v1.directory_service_pb2_grpc import (
    DirectoryServiceServicer,
    add_DirectoryServiceServicer_to_server,
)
from outside.users.v1.events_pb2 import UserDeactivated
from outside.users.v1.user_pb2 import User

from deploy import options
from deploy.local import home
from deploy.nats_users import system_user
from deploy.simulators.publishing import publish
from eventing.subjects import inbox_prefix

SOURCE: Final = "/platform/users"
AUDIENCE: Final = "platform.users"
_ISSUER: Final = "enterprise-billing-services"
_USERS: Final = Path(__file__).parent / "users.json"
_PAGE_DEFAULT: Final = 50

Context = aio.ServicerContext[Any, Any]


class Users:
    """The users, and which of them are deactivated, by tenant."""

    def __init__(self, users: Sequence[Mapping[str, Any]], state: Path) -> None:
        self._users = {user["user_id"]: user for user in users}
        self._state = state

    @classmethod
    def sample(cls, state: Path) -> "Users":
        """The users of users.json; deactivated ones are stored in the file `state`."""
        return cls(json.loads(_USERS.read_text()), state)

    def _deactivated(self) -> dict[str, list[str]]:
        """Return the deactivated users by tenant. Read each time: another process writes the file."""
        return json.loads(self._state.read_bytes()) if self._state.exists() else {}

    @property
    def names(self) -> list[str]:
        """The ids of all users."""
        return list(self._users)

    def find(self, tenant_id: UUID, user_id: str) -> User | None:
        """Return the user; None if there is none."""
        fields = self._users.get(user_id)
        if fields is None:
            return None
        active = user_id not in self._deactivated().get(str(tenant_id), ())
        return json_format.ParseDict({**fields, "active": active}, User())

    def managers(self, tenant_id: UUID, user_id: str) -> list[User]:
        """Return the managers of the user, nearest first."""
        managers: list[User] = []
        user = self.find(tenant_id, user_id)
        while user is not None and user.manager_user_id and len(managers) < len(self._users):
            user = self.find(tenant_id, user.manager_user_id)
            managers += [user] if user else []
        return managers

    def of_group(self, tenant_id: UUID, group_id: str) -> list[User]:
        """Return the users of a group, by id."""
        users = (self.find(tenant_id, user_id) for user_id in sorted(self._users))
        return [user for user in users if user is not None and group_id in user.group_ids]

    def set_active(self, tenant_id: UUID, user_id: str, *, active: bool) -> None:
        """Activate or deactivate a user. Raises KeyError if there is none."""
        if user_id not in self._users:
            raise KeyError(f"there is no user {user_id!r}; there are {', '.join(self._users)}")
        by_tenant = self._deactivated()
        inactive = set(by_tenant.get(str(tenant_id), ())) - {user_id} | (set() if active else {user_id})
        home.write(self._state, json.dumps({**by_tenant, str(tenant_id): sorted(inactive)}).encode())


class Directory(DirectoryServiceServicer):
    """platform.users.v1.DirectoryService."""

    def __init__(self, users: Users, service_jwks: Path) -> None:
        self._users = users
        self._jwks = service_jwks

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> User:
        """Implement DirectoryService."""
        user = self._users.find(await self._tenant(context), request.user_id)
        return user or await _not_found(context, f"There is no user {request.user_id!r}.")

    async def ListManagers(self, request: pb.ListManagersRequest, context: Context) -> pb.ListManagersResponse:
        """Implement DirectoryService."""
        tenant_id = await self._tenant(context)
        if self._users.find(tenant_id, request.user_id) is None:
            await _not_found(context, f"There is no user {request.user_id!r}.")
        return pb.ListManagersResponse(managers=self._users.managers(tenant_id, request.user_id))

    async def ListGroupMembers(
        self, request: pb.ListGroupMembersRequest, context: Context
    ) -> pb.ListGroupMembersResponse:
        """Implement DirectoryService; a page token is the id of the last user of the page."""
        users = self._users.of_group(await self._tenant(context), request.group_id)
        if not users:
            await _not_found(context, f"There is no group {request.group_id!r}.")
        following = [user for user in users if user.user_id > request.page_token]
        page = following[: request.page_size or _PAGE_DEFAULT]
        return pb.ListGroupMembersResponse(
            users=page, next_page_token=page[-1].user_id if len(following) > len(page) else ""
        )

    async def _tenant(self, context: Context) -> UUID:
        """Return the tenant of the caller's token; abort with UNAUTHENTICATED without a valid token."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        try:
            keys = {key["kid"]: jwt.PyJWK(key) for key in json.loads(self._jwks.read_bytes())["keys"]}
            key = keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key.key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=_ISSUER)
            return UUID(claims["tenant_id"])
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            await context.abort(StatusCode.UNAUTHENTICATED, f"A service token for the audience {AUDIENCE} is required.")


async def _not_found(context: Context, message: str) -> Any:
    await context.abort(StatusCode.NOT_FOUND, message)


async def start(listen: str, users: Users, service_jwks: Path) -> tuple[aio.Server, str]:
    """Start the server; return it and its address."""
    server = aio.server()
    add_DirectoryServiceServicer_to_server(Directory(users, service_jwks), server)
    port = server.add_insecure_port(listen)
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


async def deactivate(jetstream: JetStreamContext, users: Users, tenant_id: UUID, user_id: str) -> None:
    """Deactivate a user and publish UserDeactivated. Raises KeyError if there is none."""
    users.set_active(tenant_id, user_id, active=False)
    event = UserDeactivated(user_id=user_id)
    event.deactivation_time.GetCurrentTime()
    await publish(jetstream, event, tenant_id, SOURCE)


async def _serve(users: Users) -> None:
    server, address = await start(os.environ["BILLING_LISTEN"], users, Path(os.environ["BILLING_SERVICE_JWKS"]))
    print(f"serving at {address}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(1)


async def _deactivate(url: str, users: Users, tenant_id: UUID, user_id: str) -> None:
    client = await nats.connect(
        url.split(","), name="simulator:directory", inbox_prefix=inbox_prefix(system_user("users"))
    )
    try:
        await deactivate(client.jetstream(), users, tenant_id, user_id)
    finally:
        await client.close()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.simulators.directory", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "deactivate", "activate"], default="serve")
    parser.add_argument("user", nargs="?", default="")
    parser.add_argument("--tenant", default=os.environ.get("TENANT") or "acme", help="short name or id [TENANT]")
    arguments = parser.parse_args()
    users = Users.sample(home.RUN / "directory.json")
    if arguments.command == "serve":
        asyncio.run(_serve(users))
        return
    from deploy.local import keys
    from deploy.local.supervision import NotRunning, running_layout

    tenant_id = keys.tenant_id(arguments.tenant)
    try:
        options.names("WHO", arguments.user, users.names, required=True)
        if arguments.command == "activate":
            users.set_active(tenant_id, arguments.user, active=True)
        else:
            asyncio.run(
                _deactivate(running_layout().nats_url_as(system_user("users")), users, tenant_id, arguments.user)
            )
    except (options.InvalidOption, NotRunning) as failure:
        raise SystemExit(str(failure)) from None
    print(f"{arguments.user} of {arguments.tenant} is {'active' if arguments.command == 'activate' else 'deactivated'}")


if __name__ == "__main__":
    main()
