"""Crash points of the services: `python -m tests.chaos.faults services.approvals.main` runs a service with them.

A crash point is between two writes of a service. A file with its name arms it and contains the process to kill:
`approvals`, `budgets` or `nats`. The first process that reaches the point deletes the file and sends SIGKILL to the
process whose id is in `<name>.pid`. The code of the services is unchanged: functions are wrapped at start.
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
"""Environment variable with the folder of the files."""
APPROVALS: Final = "approvals"
BUDGETS: Final = "budgets"
NATS: Final = "nats"
_OUTCOMES: Final = ("ApprovalApproved", "ApprovalRejected", "ApprovalChangesRequested")
_SETTLING: Final = ("apply_approval", "release_hold_of_rejected", "release_hold_of_returned")
"""Consumers of the budgets service that settle the hold of a request."""


@dataclass(frozen=True, slots=True)
class CrashPoint:
    """A point in the code, before or after an asynchronous function."""

    owner: str
    """`module:Class` or `module`."""
    function: str
    after: bool
    when: Callable[..., bool] = lambda *_, **__: True
    """Condition on the arguments of the function."""
    consumers: tuple[str, ...] = ()
    """Event handlers that the condition names."""

    def resolve(self, service: str) -> Any:
        """Return the owner of the function. Raises ValueError if the function or a consumer does not exist."""
        module, _, name = self.owner.partition(":")
        owner = getattr(import_module(module), name) if name else import_module(module)
        handlers = import_module(f"services.{service}.events.consumers").HANDLERS
        unknown = set(self.consumers) - {handler.name for handler in handlers}
        if self.function not in owner.__dict__ or unknown:
            raise ValueError(f"unknown: {self.owner}.{self.function}, or consumers {sorted(unknown)}")
        return owner


def _published(*, after: bool, events: tuple[str, ...]) -> CrashPoint:
    """The publication of one of these events by the outbox relay."""
    return CrashPoint(
        "eventing.outbox:Relay", "_publish", after, lambda _relay, row: row.type.rpartition(".")[2] in events
    )


def _handled(*, after: bool, consumers: tuple[str, ...]) -> CrashPoint:
    """The handling of an event by one of these consumers."""
    return CrashPoint(
        "eventing.consumer:Consumer",
        "handle",
        after,
        lambda consumer, *_: consumer.name.rpartition(".")[2] in consumers,
        consumers,
    )


def _posts(entry_type: str) -> Callable[..., bool]:
    """Condition for Ledger.post: one entry of this type, for an approval."""
    return lambda _ledger, _origin, request: _is_for_approval(request) and request.entry_type == entry_type


def _posts_in_batch(entry_type: str) -> Callable[..., bool]:
    """Condition for `posting.post`: a batch with an entry of this type, for an approval."""
    return lambda _transaction, submissions, _codec: any(
        _is_for_approval(request) and request.entry_type == entry_type
        for submission in submissions
        for request in submission.requests
    )


def _is_for_approval(request: Any) -> bool:
    return request.approval_id is not None or (request.hold is not None and request.hold.approval_id is not None)


_OPENING: Final = "services.approvals.service.opening:OpeningSaga"
_BUDGETS_CLIENT: Final = "services.approvals.clients:BudgetsClient"
_APPROVAL_HOLDS: Final = "services.budgets.service.approval_holds:ApprovalHolds"
_LEDGER: Final = "services.budgets.ledger:Ledger"
_POSTING: Final = "services.budgets.ledger.posting"

CRASH_POINTS: Final[Mapping[str, Mapping[str, CrashPoint]]] = {
    APPROVALS: {
        # opening of a request
        "stored, not held": CrashPoint(_BUDGETS_CLIENT, "hold", after=False),
        "held, not started": CrashPoint(_BUDGETS_CLIENT, "hold", after=True),
        "started, not committed": CrashPoint(_OPENING, "open", after=True),
        "started, not returned": CrashPoint(
            "services.approvals.rpc.approvals:ApprovalServicer", "CreateApproval", after=True
        ),
        "submission published, not marked": _published(after=True, events=("ApprovalRequested",)),
        # rejected hold
        "rejected, not released": CrashPoint(_BUDGETS_CLIENT, "release", after=False),
        "released, not rolled back": CrashPoint(_BUDGETS_CLIENT, "release", after=True),
        # decision
        "decided, not committed": CrashPoint("services.approvals.service.decisions", "act", after=True),
        "decided, not returned": CrashPoint(
            "services.approvals.rpc.approvals:ApprovalServicer", "ActOnApproval", after=True
        ),
        "decided, not published": _published(after=False, events=_OUTCOMES),
        "decision published, not marked": _published(after=True, events=_OUTCOMES),
        # resubmission
        "released, next round not stored": CrashPoint(_OPENING, "_start_round", after=False),
        "next round stored, not held": CrashPoint(_OPENING, "_start_round", after=True),
        # settlement by the budget
        "settlement written, not committed": CrashPoint(
            "services.approvals.service.approvals", "record_reservation", after=True
        ),
        "settlement stored, not acknowledged": _handled(after=True, consumers=("record_reservation",)),
    },
    BUDGETS: {
        # hold
        "hold written, not committed": CrashPoint(_POSTING, "post", True, _posts_in_batch("HOLD")),
        "held, not returned": CrashPoint(_LEDGER, "post", True, _posts("HOLD")),
        # cancellation of a hold
        "cancellation written, not committed": CrashPoint("services.budgets.store.idempotency", "claim", after=True),
        "cancelled, not returned": CrashPoint(_APPROVAL_HOLDS, "cancel", after=True),
        # settlement of the outcome
        "outcome received": _handled(after=False, consumers=_SETTLING),
        "commit written, not committed": CrashPoint(_POSTING, "post", True, _posts_in_batch("COMMIT")),
        "commit done": CrashPoint(_LEDGER, "post", True, _posts("COMMIT")),
        "release written, not committed": CrashPoint(_POSTING, "post", True, _posts_in_batch("RELEASE")),
        "release done": CrashPoint(_LEDGER, "post", True, _posts("RELEASE")),
        "increase written, not committed": CrashPoint("services.budgets.service.budgets", "update", after=True),
        "increase done": CrashPoint(_APPROVAL_HOLDS, "_increase_budget", after=True),
        "failure written, not committed": CrashPoint(_APPROVAL_HOLDS, "_claim_failure", after=True),
        "failure done": CrashPoint(_APPROVAL_HOLDS, "_fail", after=True),
        "settled, not acknowledged": _handled(after=True, consumers=_SETTLING),
        # event about the settlement
        "settled, not published": _published(after=False, events=("ApprovalFundsSettled",)),
        "settlement published, not marked": _published(after=True, events=("ApprovalFundsSettled",)),
    },
}
"""All crash points, by service and name."""


def file_of(service: str, point: str) -> str:
    """Return the name of the file that arms a crash point."""
    return f"{service} {point}".replace(" ", "-").replace(",", "")


def crash_if_armed(folder: Path, file: str, service: str) -> None:
    """If the crash point is armed, disarm it and kill the process that its file names."""
    with contextlib.suppress(FileNotFoundError):
        victim = (folder / file).read_text()
        (folder / file).unlink()
        pid = os.getpid() if victim == service else int((folder / f"{victim}.pid").read_text())
        os.kill(pid, signal.SIGKILL)


def _install(folder: Path, service: str, name: str, point: CrashPoint) -> None:
    """Wrap the function of a crash point."""
    owner, file = point.resolve(service), file_of(service, name)
    attribute = owner.__dict__[point.function]
    static = isinstance(attribute, staticmethod)
    original: Callable[..., Awaitable[Any]] = attribute.__func__ if static else attribute

    @functools.wraps(original)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not point.after and point.when(*args):
            crash_if_armed(folder, file, service)
        result = await original(*args, **kwargs)
        if point.after and point.when(*args):
            crash_if_armed(folder, file, service)
        return result

    setattr(owner, point.function, staticmethod(wrapper) if static else wrapper)


def main() -> None:
    """Run a service with all its crash points."""
    module = sys.argv[1]
    service, folder = module.split(".")[1], Path(os.environ[FOLDER])
    for name, point in CRASH_POINTS[service].items():
        _install(folder, service, name, point)
    import_module(module).main()


if __name__ == "__main__":
    main()
