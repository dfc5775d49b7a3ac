"""The checker accepts a correct run and finds each planted fault."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from tests.chaos.checker import Checker, Finding
from tests.chaos.record import (
    Entry,
    Ledger,
    Link,
    Rejection,
    Result,
    SentRequest,
    StoredAlert,
    StoredBudget,
    StoredHold,
)

GROUP, TEAM, HOLD, ALERT = (UUID(int=number) for number in (1, 2, 3, 4))
CHARGED, HELD, CAPTURED, REFUNDED = (UUID(int=number) for number in (11, 12, 13, 14))


def budget(id: UUID, initial_amount: int, used: tuple[int, int, int, int], parent: UUID | None = None) -> StoredBudget:
    return StoredBudget(
        id=id, parent=parent, initial_amount=initial_amount, policy="BLOCK", tolerance_bp=0, thresholds_bp=(5000,),
        numbers=(initial_amount, *used), version=4,
    )  # fmt: skip


def entry(
    id: UUID, kind: str, version: int, amount: int, change: tuple[int, ...], after: tuple[int, int, int], key: str
) -> Entry:
    """Return an entry of the team budget (50.00), which is below the group budget (100.00)."""
    spent, held, committed, captured = change
    return Entry(
        id=id, entry_type=kind, budget=TEAM, chain=[TEAM, GROUP], versions=[version, version],
        after=[(50_00, *after), (100_00, *after)], amount=amount, change=(0, spent, held, committed, captured), key=key,
        hold=HOLD if kind in {"HOLD", "CAPTURE"} else None, charge=CHARGED if kind == "REFUND" else None,
        at=float(version),
    )  # fmt: skip


def links(before: int, after: int) -> list[Link]:
    """Return the chain of a reply: the team budget, and the group budget with 50.00 more."""
    return [Link(TEAM, before, after), Link(GROUP, before + 50_00, after + 50_00)]


def result(entry: UUID, captured: int, released: int, state: str) -> Result:
    return Result(entry=entry, hold=HOLD, hold_numbers=(10_00, captured, released, state))


class Case:
    """A correct run: 30.00 charged and 5.00 of it refunded, 10.00 held, 4.00 of that captured and the rest released."""

    def __init__(self) -> None:
        self.charge = SentRequest(method="Charge", key="k1", budget=TEAM, amount=30_00, reply_time=1.1)
        self.charge.result = Result(entry=CHARGED, amount=30_00, chain=links(50_00, 20_00))
        self.hold = SentRequest(method="CreateHold", key="k2", budget=TEAM, amount=10_00, reply_time=2.1)
        self.hold.result = result(HELD, 0, 0, "HELD")
        self.capture = SentRequest(method="CaptureHold", key="k3", budget=TEAM, amount=4_00, hold=HOLD, reply_time=3.1)
        self.capture.result = result(CAPTURED, 4_00, 6_00, "CAPTURED")
        self.refund = SentRequest(
            method="RefundCharge", key="k4", budget=TEAM, amount=5_00, charge=CHARGED, reply_time=4.1
        )
        self.refund.result = Result(entry=REFUNDED, amount=5_00, chain=links(16_00, 21_00), refundable=25_00)
        self.rejected = SentRequest(method="Charge", key="k5", budget=TEAM, amount=15_00)
        self.rejected.rejections = [budget_exceeded(start_time=2.2, end_time=2.8, available=10_00)]
        self.sent = [self.charge, self.hold, self.capture, self.refund, self.rejected]
        used = (29_00, 0, 0, 4_00)
        self.ledger = Ledger(
            budgets={GROUP: budget(GROUP, 100_00, used), TEAM: budget(TEAM, 50_00, used, GROUP)},
            entries=[
                entry(CHARGED, "CHARGE", 1, 30_00, (30_00, 0, 0, 0), (30_00, 0, 0), "k1"),
                entry(HELD, "HOLD", 2, 10_00, (0, 10_00, 0, 0), (30_00, 10_00, 0), "k2"),
                entry(CAPTURED, "CAPTURE", 3, 4_00, (4_00, -10_00, 0, 4_00), (34_00, 0, 0), "k3"),
                entry(REFUNDED, "REFUND", 4, 5_00, (-5_00, 0, 0, 0), (29_00, 0, 0), "k4"),
            ],
            holds={HOLD: StoredHold(id=HOLD, budget=TEAM, numbers=(10_00, 4_00, 6_00, "CAPTURED"), expires=None)},
            alerts=[StoredAlert(id=ALERT, budget=TEAM, threshold=("THRESHOLD", 5000), open=True)],
            published_alerts=[ALERT],
        )

    def findings(self) -> Sequence[Finding]:
        return Checker(self.ledger, self.sent).check()


def budget_exceeded(*, start_time: float, end_time: float, available: int) -> Rejection:
    numbers = {"budget_id": f"bud_{TEAM.hex}", "requested": "1500", "available": str(available)}
    return Rejection(reason="BUDGET_EXCEEDED", numbers=numbers, start_time=start_time, end_time=end_time)


def test_correct_run_passes() -> None:
    assert Case().findings() == []


def missing_version(case: Case) -> None:
    del case.ledger.entries[1]


def key_executed_twice(case: Case) -> None:
    case.ledger.entries[3] = replace(case.ledger.entries[3], entry_type="CHARGE", key="k1", charge=None)


def entry_off_by_one_cent(case: Case) -> None:
    first = case.ledger.entries[0]
    case.ledger.entries[0] = replace(first, after=[(50_00, 30_01, 0, 0), first.after[1]])


def lost_charge(case: Case) -> None:
    case.sent.append(replace(case.charge, key="k9"))


def entry_without_request(case: Case) -> None:
    case.sent.remove(case.hold)


def charge_above_the_limit(case: Case) -> None:
    case.ledger.budgets[TEAM].policy, case.ledger.budgets[TEAM].initial_amount = "BLOCK", 39_99


def budget_differs_from_ledger(case: Case) -> None:
    case.ledger.budgets[GROUP].numbers = (100_00, 29_01, 0, 0, 4_00)


def wrong_amount_returned(case: Case) -> None:
    case.charge.result = Result(entry=CHARGED, amount=30_01, chain=links(50_00, 20_00))


def wrong_balance_returned(case: Case) -> None:
    case.charge.result = Result(entry=CHARGED, amount=30_00, chain=links(50_00, 20_01))


def wrong_hold_returned(case: Case) -> None:
    case.capture.result = result(CAPTURED, 4_00, 0, "HELD")


def rejected_though_available(case: Case) -> None:
    case.rejected.rejections = [budget_exceeded(start_time=2.2, end_time=2.8, available=15_00)]


def rejected_with_outdated_amount(case: Case) -> None:
    case.rejected.rejections = [budget_exceeded(start_time=3.2, end_time=3.8, available=10_00)]


def rejected_because_of_itself(case: Case) -> None:
    case.rejected = replace(case.rejected, key="k1", method="Charge")
    case.charge.rejections = [budget_exceeded(start_time=0.5, end_time=2.5, available=10_00)]


def rejected_after_acceptance(case: Case) -> None:
    numbers = {"requested": "3000", "available": "2500"}
    case.refund.rejections = [Rejection(reason="REFUND_EXCEEDS_CHARGE", numbers=numbers, start_time=5.0, end_time=5.1)]


def rejected_but_in_the_ledger(case: Case) -> None:
    case.charge.result = None


def unexpected_rejection(case: Case) -> None:
    case.rejected.rejections = [Rejection(reason="BUDGET_NOT_FOUND", numbers={}, start_time=2.2, end_time=2.8)]


def hold_ends_twice(case: Case) -> None:
    again = replace(case.ledger.entries[3], entry_type="RELEASE", hold=HOLD, charge=None, change=(0, -5_00, 0, 0, 0))
    case.ledger.entries[3] = again


def hold_differs_from_entries(case: Case) -> None:
    case.ledger.holds[HOLD].numbers = (10_00, 4_00, 0, "HELD")


def refund_above_charge(case: Case) -> None:
    case.ledger.entries[3] = replace(case.ledger.entries[3], amount=30_01)


def missing_alert(case: Case) -> None:
    case.ledger.alerts.clear()
    case.ledger.published_alerts.clear()


def alert_raised_twice(case: Case) -> None:
    case.ledger.alerts.append(replace(case.ledger.alerts[0], id=UUID(int=5), open=False))
    case.ledger.published_alerts.append(UUID(int=5))


def alert_published_twice(case: Case) -> None:
    case.ledger.published_alerts.append(ALERT)


def unpublished_event(case: Case) -> None:
    case.ledger.unpublished = 1


@pytest.mark.parametrize(
    ("corrupt", "kind", "text"),
    [
        (missing_version, "WRONG", "has version 3, expected 2"),
        (key_executed_twice, "DOUBLED", "Charge k1 was executed 2 times"),
        (entry_off_by_one_cent, "WRONG", "version 1 has (5000, 3001, 0, 0)"),
        (lost_charge, "LOST", "Charge k9 was accepted"),
        (entry_without_request, "WRONG", "no request for 1 HOLD with the key k2"),
        (charge_above_the_limit, "WRONG", "version 2 uses 4000, its policy allows 3999"),
        (budget_differs_from_ledger, "WRONG", "the budget has (10000, 2901, 0, 0, 400)"),
        (wrong_amount_returned, "WRONG", "3000 requested, 3001 returned"),
        (wrong_balance_returned, "WRONG", "Charge k1 returned"),
        (wrong_hold_returned, "WRONG", "CaptureHold k3 returned the hold (1000, 400, 0, 'HELD')"),
        (rejected_though_available, "WRONG", "1500 was rejected, though 1500 was available"),
        (rejected_with_outdated_amount, "WRONG", "never had 1000 available"),
        (rejected_because_of_itself, "WRONG", "rejected because of its own accepted charge"),
        (rejected_after_acceptance, "WRONG", "was accepted, and later rejected"),
        (rejected_but_in_the_ledger, "WRONG", "Charge k1 was rejected, but is in the ledger"),
        (unexpected_rejection, "WRONG", "rejected with BUDGET_NOT_FOUND"),
        (hold_ends_twice, "DOUBLED", "has an entry after its end"),
        (hold_differs_from_entries, "WRONG", "open holds sum up to 600, the budget has 0 held, 0 committed"),
        (refund_above_charge, "WRONG", "more was refunded than spent"),
        (missing_alert, "WRONG", "0 open alerts for ('THRESHOLD', 5000)"),
        (alert_raised_twice, "DOUBLED", "was crossed 1 times"),
        (alert_published_twice, "WRONG", "not every alert was published exactly once"),
        (unpublished_event, "WRONG", "1 events are not published"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_planted_fault_is_found(corrupt: Callable[[Case], None], kind: str, text: str) -> None:
    case = Case()
    corrupt(case)
    assert [finding for finding in case.findings() if finding.kind == kind and text in finding.text], case.findings()
