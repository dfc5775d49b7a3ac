"""Users of a tenant and their managers, read from user management."""

import asyncio
from collections.abc import Sequence
from typing import ClassVar, Final

import grpc
from grpc import StatusCode
from outside.users.v1 import user_pb2
from outside.users.v1.directory_service_pb2 import GetUserRequest, ListManagersRequest
from outside.users.v1.directory_service_pb2_grpc import DirectoryServiceStub

from kit.errors import Unavailable
from kit.origin import Origin
from kit.settings import Settings
from kit.users import User
from serving.clients import ServiceClient

_USERS: Final = "users"
AUDIENCE: Final = "platform.users"
"""Audience of the tokens that we send to user management; not ours, so that it can't replay them to our services."""


class Directory:
    """Client of user management. If no address is configured, `find` accepts every user id as an active user."""

    check_s: ClassVar[float] = 0.5
    """Time limit of checks without which a call goes on."""

    def __init__(self, settings: Settings) -> None:
        self._client = None
        if _USERS in settings.addresses:
            self._client = ServiceClient(settings.model_copy(update={"audience": AUDIENCE}), _USERS)
            self._stub = DirectoryServiceStub(self._client.channel)

    @property
    def configured(self) -> bool:
        """True if users are checked."""
        return self._client is not None

    async def find(self, origin: Origin, user_id: str) -> User | None:
        """Return the user, or None if there is none. Raises Unavailable."""
        if self._client is None or not user_id:
            return User(user_id, active=True)
        try:
            reply = await self._client.call(self._stub.GetUser, GetUserRequest(user_id=user_id), origin)
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return None
            raise
        return _user(reply)

    async def is_active(self, origin: Origin, user_id: str) -> bool:
        """True if user management reports the user as active; False where it is not configured."""
        user = await self.find(origin, user_id) if self._client else None
        return user is not None and user.active

    async def has_left(self, origin: Origin, user_id: str) -> bool | None:
        """True if user management reports the user as inactive.

        None if that is unknown: no directory is configured, or it does not respond in time.
        """
        if self._client is None:
            return None
        try:
            async with asyncio.timeout(self.check_s):
                user = await self.find(origin, user_id)
        except (Unavailable, TimeoutError, grpc.aio.AioRpcError):
            return None
        return user is not None and not user.active

    async def managers(self, origin: Origin, user_id: str) -> Sequence[User]:
        """Return the managers of the user, nearest first; none if the user is unknown or no directory is configured."""
        if self._client is None:
            return ()
        try:
            reply = await self._client.call(self._stub.ListManagers, ListManagersRequest(user_id=user_id), origin)
        except grpc.aio.AioRpcError as error:
            if error.code() is StatusCode.NOT_FOUND:
                return ()
            raise
        return [_user(user) for user in reply.managers]


def _user(user: user_pb2.User) -> User:
    return User(user.user_id, active=user.active)
