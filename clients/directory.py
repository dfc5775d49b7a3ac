"""Who the users of a tenant are, as user management has them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
from grpc import StatusCode
from outside.users.v1.directory_service_pb2 import GetUserRequest, ListManagersRequest
from outside.users.v1.directory_service_pb2_grpc import DirectoryServiceStub
from outside.users.v1.user_pb2 import User

from kit.origin import Origin
from kit.settings import Settings
from serving.clients import ServiceClient

_USERS: Final = "users"
AUDIENCE: Final = "platform.users"
"""For whom our tokens are there: with one of ours for ourselves, user management could call our services as we do."""


@dataclass(frozen=True, slots=True)
class Person:
    """A user as user management has them."""

    user_id: str
    active: bool


class Directory:
    """The users of a tenant, as user management knows them; where none is configured, everybody is believed in."""

    def __init__(self, settings: Settings) -> None:
        self._peer = None
        if _USERS in settings.addresses:
            self._peer = ServiceClient(settings.model_copy(update={"audience": AUDIENCE}), _USERS)
            self._stub = DirectoryServiceStub(self._peer.channel)

    async def find(self, origin: Origin, user_id: str) -> Person | None:
        """The user, None where there is none; raises Unavailable."""
        if self._peer is None or not user_id:
            return Person(user_id, active=True)
        try:
            return _person(await self._peer.call(self._stub.GetUser, GetUserRequest(user_id=user_id), origin))
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return None
            raise

    async def is_active(self, origin: Origin, user_id: str) -> bool:
        """Whether user management says that the user is active; not so where it is not configured."""
        person = await self.find(origin, user_id) if self._peer else None
        return person is not None and person.active

    async def managers(self, origin: Origin, user_id: str) -> Sequence[Person]:
        """Who manages the user, nearest first; nobody where the user or user management is not there."""
        if self._peer is None:
            return ()
        try:
            found = await self._peer.call(self._stub.ListManagers, ListManagersRequest(user_id=user_id), origin)
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return ()
            raise
        return [_person(user) for user in found.managers]


def _person(user: User) -> Person:
    return Person(user.user_id, active=user.active)
