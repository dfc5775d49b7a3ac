"""User management: tells who the users of a tenant are, and says when one leaves.

Every tenant has the same people, those of users.json; who has left is kept by tenant, beside the state of the stack.
`python -m deploy.simulators.directory` serves DirectoryService at BILLING_LISTEN, for tokens that a key of
BILLING_SERVICE_JWKS signed; `make up` starts it. `… deactivate erin [--tenant acme]` lets somebody leave and says
UserDeactivated; `… activate erin` takes them back. `make deactivate-user WHO=erin` does the first on the local stack.
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

from deploy.local import home
from deploy.simulators.telling import tell

SOURCE: Final = "/platform/users"
AUDIENCE: Final = "platform.users"
_ISSUER: Final = "enterprise-billing-services"
_PEOPLE: Final = Path(__file__).parent / "users.json"
_PAGE_DEFAULT: Final = 50

Context = aio.ServicerContext[Any, Any]


class Users:
    """The people, and who of them has left which tenant."""

    def __init__(self, people: Sequence[Mapping[str, Any]], state: Path) -> None:
        self._people = {person["user_id"]: person for person in people}
        self._state = state

    @classmethod
    def sample(cls, state: Path) -> "Users":
        """Those of users.json; who has left stands in the file `state`."""
        return cls(json.loads(_PEOPLE.read_text()), state)

    def _left(self) -> dict[str, list[str]]:
        """Who has left, by tenant. Read anew each time, since a command of its own writes it."""
        return json.loads(self._state.read_bytes()) if self._state.exists() else {}

    def find(self, tenant_id: UUID, user_id: str) -> User | None:
        """The user; None where there is none."""
        person = self._people.get(user_id)
        if person is None:
            return None
        active = user_id not in self._left().get(str(tenant_id), ())
        return json_format.ParseDict({**person, "active": active}, User())

    def managers(self, tenant_id: UUID, user_id: str) -> list[User]:
        """Who manages the user, nearest first."""
        found: list[User] = []
        user = self.find(tenant_id, user_id)
        while user is not None and user.manager_user_id and len(found) < len(self._people):
            user = self.find(tenant_id, user.manager_user_id)
            found += [user] if user else []
        return found

    def of_group(self, tenant_id: UUID, group_id: str) -> list[User]:
        """The users of a group, by id."""
        users = (self.find(tenant_id, user_id) for user_id in sorted(self._people))
        return [user for user in users if user is not None and group_id in user.group_ids]

    def set_active(self, tenant_id: UUID, user_id: str, *, active: bool) -> None:
        """Let a user leave, or take them back; raises KeyError where there is none."""
        if user_id not in self._people:
            raise KeyError(f"there is no user {user_id!r}; there are {', '.join(self._people)}")
        left = self._left()
        gone = set(left.get(str(tenant_id), ())) - {user_id} | (set() if active else {user_id})
        home.write(self._state, json.dumps({**left, str(tenant_id): sorted(gone)}).encode())


class Directory(DirectoryServiceServicer):
    """platform.users.v1.DirectoryService."""

    def __init__(self, users: Users, service_jwks: Path) -> None:
        self._users = users
        self._jwks = service_jwks

    async def GetUser(self, request: pb.GetUserRequest, context: Context) -> User:
        """As the proto says."""
        user = self._users.find(await self._tenant(context), request.user_id)
        return user or await _not_found(context, f"There is no user {request.user_id!r}.")

    async def ListManagers(self, request: pb.ListManagersRequest, context: Context) -> pb.ListManagersResponse:
        """As the proto says."""
        tenant_id = await self._tenant(context)
        if self._users.find(tenant_id, request.user_id) is None:
            await _not_found(context, f"There is no user {request.user_id!r}.")
        return pb.ListManagersResponse(managers=self._users.managers(tenant_id, request.user_id))

    async def ListGroupMembers(
        self, request: pb.ListGroupMembersRequest, context: Context
    ) -> pb.ListGroupMembersResponse:
        """As the proto says; a page token is the id of the last user told."""
        users = self._users.of_group(await self._tenant(context), request.group_id)
        if not users:
            await _not_found(context, f"There is no group {request.group_id!r}.")
        left = [user for user in users if user.user_id > request.page_token]
        told = left[: request.page_size or _PAGE_DEFAULT]
        return pb.ListGroupMembersResponse(
            users=told, next_page_token=told[-1].user_id if len(left) > len(told) else ""
        )

    async def _tenant(self, context: Context) -> UUID:
        """Whose users are meant, as the caller's token says; others are refused."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        token = metadata.get("authorization", "").removeprefix("Bearer ")
        try:
            keys = {key["kid"]: jwt.PyJWK(key) for key in json.loads(self._jwks.read_bytes())["keys"]}
            key = keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(token, key.key, algorithms=["EdDSA"], audience=AUDIENCE, issuer=_ISSUER)
            return UUID(claims["tenant_id"])
        except (jwt.PyJWTError, KeyError, ValueError, TypeError):
            await context.abort(StatusCode.UNAUTHENTICATED, f"A token of a service for {AUDIENCE} is wanted.")


async def _not_found(context: Context, message: str) -> Any:
    await context.abort(StatusCode.NOT_FOUND, message)


async def start(listen: str, users: Users, service_jwks: Path) -> tuple[aio.Server, str]:
    """A server that answers, and its address."""
    server = aio.server()
    add_DirectoryServiceServicer_to_server(Directory(users, service_jwks), server)
    port = server.add_insecure_port(listen)
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


async def deactivate(jetstream: JetStreamContext, users: Users, tenant_id: UUID, user_id: str) -> None:
    """Let a user leave, and say so; raises KeyError where there is none."""
    users.set_active(tenant_id, user_id, active=False)
    event = UserDeactivated(user_id=user_id)
    event.deactivation_time.GetCurrentTime()
    await tell(jetstream, event, tenant_id, SOURCE)


async def _serve(users: Users) -> None:
    server, address = await start(os.environ["BILLING_LISTEN"], users, Path(os.environ["BILLING_SERVICE_JWKS"]))
    print(f"serving at {address}", flush=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await server.stop(1)


async def _leave(url: str, users: Users, tenant_id: UUID, user_id: str) -> None:
    client = await nats.connect(url.split(","), name="simulator:directory")
    try:
        await deactivate(client.jetstream(), users, tenant_id, user_id)
    finally:
        await client.close()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m deploy.simulators.directory", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["serve", "deactivate", "activate"], default="serve")
    parser.add_argument("user", nargs="?", default="")
    parser.add_argument("--tenant", default=os.environ.get("TENANT") or "acme", help="short name or id [TENANT]")
    given = parser.parse_args()
    users = Users.sample(home.RUN / "directory.json")
    if given.command == "serve":
        asyncio.run(_serve(users))
        return
    from deploy.local import keys
    from deploy.local.processes import layout

    tenant_id = keys.tenant_id(given.tenant)
    if given.command == "activate":
        users.set_active(tenant_id, given.user, active=True)
    else:
        asyncio.run(_leave(layout(running=True).nats_url, users, tenant_id, given.user))
    print(
        f"{given.user} of {given.tenant} is {'active again' if given.command == 'activate' else 'not active any more'}"
    )


if __name__ == "__main__":
    main()
