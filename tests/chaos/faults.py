"""A service in which a process dies between two writes: `python -m tests.chaos.faults services.approvals.main`.

The places between two writes have names. One is armed by a file of its name that says who dies there (`approvals`,
`budgets` or `nats`); whoever comes there first takes the file away and sends SIGKILL to the process whose id is in
`<who>.pid`. Nothing of the services knows of it.
"""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final

FOLDER: Final = "FAULTS_FOLDER"
"""The variable that says where the files are."""
APPROVALS: Final = "approvals"
BUDGETS: Final = "budgets"
NATS: Final = "nats"
_OUTCOMES: Final = ("ApprovalApproved", "ApprovalRejected", "ApprovalChangesRequested")
_FOLLOWERS: Final = ("apply_approval", "release_hold_of_rejected", "release_hold_of_returned")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the code, before or after an asynchronous function."""

    of: str
    """`module:Class` or `module`."""
    function: str
    after: bool
    when: Callable[..., bool] = lambda *_, **__: True


def _says(*events: str) -> Callable[..., bool]:
    return lambda _relay, row: row.type.rpartition(".")[2] in events


def _hears(*consumers: str) -> Callable[..., bool]:
    return lambda consumer, *_: consumer.name.rpartition(".")[2] in consumers


def _posts(entry_type: str) -> Callable[..., bool]:
    return lambda _ledger, _origin, request: _is_for_approval(request) and request.entry_type == entry_type


def _posts_in_batch(entry_type: str) -> Callable[..., bool]:
    return lambda _transaction, submissions, _codec: any(
        _is_for_approval(request) and request.entry_type == entry_type
        for submission in submissions
        for request in submission.requests
    )


def _is_for_approval(request: Any) -> bool:
    return request.approval_id is not None or (request.hold is not None and request.hold.approval_id is not None)


_OPENING: Final = "services.approvals.service.opening:OpeningSaga"
_PEER: Final = "services.approvals.clients:BudgetsClient"
_APPROVAL_HOLDS: Final = "services.budgets.service.approval_holds:ApprovalHolds"
_LEDGER: Final = "services.budgets.ledger:Ledger"
_POSTING: Final = "services.budgets.ledger.posting"

PLACES: Final[Mapping[str, Mapping[str, Place]]] = {
    APPROVALS: {
        # a request is opened
        "kept, not held": Place(_PEER, "hold", after=False),
        "held, not asked": Place(_PEER, "hold", after=True),
        "asked, not committed": Place(_OPENING, "open", after=True),
        "asked, not answered": Place("services.approvals.rpc.approvals:ApprovalServicer", "CreateApproval", after=True),
        "asked and published, not marked": Place("eventing.outbox:Relay", "_publish", True, _says("ApprovalRequested")),
        # its budget has no room
        "refused, not called off": Place(_PEER, "release", after=False),
        "called off, not undone": Place(_PEER, "release", after=True),
        # somebody decides
        "decided, not committed": Place("services.approvals.service.decisions", "act", after=True),
        "decided, not answered": Place(
            "services.approvals.rpc.approvals:ApprovalServicer", "ActOnApproval", after=True
        ),
        "decided, not published": Place("eventing.outbox:Relay", "_publish", False, _says(*_OUTCOMES)),
        "decided and published, not marked": Place("eventing.outbox:Relay", "_publish", True, _says(*_OUTCOMES)),
        # it is sent back and submitted again
        "given back, not kept again": Place(_OPENING, "_start_round", after=False),
        "kept again, not held": Place(_OPENING, "_start_round", after=True),
        # its budget followed
        "noted, not committed": Place("services.approvals.service.approvals", "record_reservation", after=True),
        "noted, not acknowledged": Place("eventing.consumer:Consumer", "handle", True, _hears("record_reservation")),
    },
    BUDGETS: {
        # money is held
        "hold written, not committed": Place(_POSTING, "post", True, _posts_in_batch("HOLD")),
        "held, not answered": Place(_LEDGER, "post", True, _posts("HOLD")),
        # a hold is called off
        "calling off, not committed": Place("services.budgets.store.idempotency", "claim", after=True),
        "called off, not answered": Place(_APPROVAL_HOLDS, "cancel", after=True),
        # the outcome is heard
        "outcome heard": Place("eventing.consumer:Consumer", "handle", False, _hears(*_FOLLOWERS)),
        "commit written, not committed": Place(_POSTING, "post", True, _posts_in_batch("COMMIT")),
        "commit done": Place(_LEDGER, "post", True, _posts("COMMIT")),
        "release written, not committed": Place(_POSTING, "post", True, _posts_in_batch("RELEASE")),
        "release done": Place(_LEDGER, "post", True, _posts("RELEASE")),
        "raise written, not committed": Place("services.budgets.service.budgets", "update", after=True),
        "raise done": Place(_APPROVAL_HOLDS, "_raise_budget", after=True),
        "failure written, not committed": Place(_APPROVAL_HOLDS, "_claim_failure", after=True),
        "failure done": Place(_APPROVAL_HOLDS, "_fail", after=True),
        "followed, not acknowledged": Place("eventing.consumer:Consumer", "handle", True, _hears(*_FOLLOWERS)),
        # and it is told
        "followed, not published": Place("eventing.outbox:Relay", "_publish", False, _says("ApprovalFundsSettled")),
        "followed and published, not marked": Place(
            "eventing.outbox:Relay", "_publish", True, _says("ApprovalFundsSettled")
        ),
    },
}
"""By service and name; between two writes of a request's life each."""


def file_of(service: str, place: str) -> str:
    """The name of the file that arms a place."""
    return f"{service} {place}".replace(" ", "-").replace(",", "")


def strike(folder: Path, service: str, file: str) -> None:
    """If the place is armed, disarm it and kill whom its file says."""
    with contextlib.suppress(FileNotFoundError):
        victim = (folder / file).read_text()
        (folder / file).unlink()
        pid = os.getpid() if victim == service else int((folder / f"{victim}.pid").read_text())
        os.kill(pid, signal.SIGKILL)


def _owner(of: str) -> Any:
    module, _, name = of.partition(":")
    return getattr(import_module(module), name) if name else import_module(module)


def _watch(folder: Path, service: str, name: str, place: Place) -> None:
    owner, file = _owner(place.of), file_of(service, name)
    watched = owner.__dict__[place.function]
    static = isinstance(watched, staticmethod)
    original: Callable[..., Awaitable[Any]] = watched.__func__ if static else watched

    @functools.wraps(original)
    async def fateful(*given: Any, **named: Any) -> Any:
        if not place.after and place.when(*given):
            strike(folder, service, file)
        result = await original(*given, **named)
        if place.after and place.when(*given):
            strike(folder, service, file)
        return result

    setattr(owner, place.function, staticmethod(fateful) if static else fateful)


def main() -> None:
    """Serve, with all places of the service watched."""
    module = sys.argv[1]
    service, folder = module.split(".")[1], Path(os.environ[FOLDER])
    for name, place in PLACES[service].items():
        _watch(folder, service, name, place)
    import_module(module).main()


if __name__ == "__main__":
    main()
