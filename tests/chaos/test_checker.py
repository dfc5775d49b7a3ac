"""The checker finds what it is there for: a sound ledger passes, and each way of doctoring it is told."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from uuid import UUID

import pytest

from tests.chaos.checker import Checker, Finding
from tests.chaos.record import AlertNow, Asked, BudgetNow, Denied, Entry, HoldNow, Ledger, Link, Told

GROUP, TEAM, HOLD, ALERT = (UUID(int=number) for number in (1, 2, 3, 4))
CHARGED, HELD, CAPTURED, REFUNDED = (UUID(int=number) for number in (11, 12, 13, 14))


def budget(id: UUID, opened_with: int, used: tuple[int, int, int, int], parent: UUID | None = None) -> BudgetNow:
    return BudgetNow(
        id=id, parent=parent, opened_with=opened_with, policy="BLOCK", tolerance_bp=0, thresholds_bp=(5000,),
        numbers=(opened_with, *used), version=4,
    )  # fmt: skip


def entry(
    id: UUID, kind: str, version: int, amount: int, moved: tuple[int, ...], after: tuple[int, int, int], key: str
) -> Entry:
    """On the team's budget of 50.00, below the group's of 100.00."""
    spent, held, committed, captured = moved
    return Entry(
        id=id, entry_type=kind, budget=TEAM, chain=[TEAM, GROUP], versions=[version, version],
        after=[(50_00, *after), (100_00, *after)], amount=amount, moved=(0, spent, held, committed, captured), key=key,
        hold=HOLD if kind in {"HOLD", "CAPTURE"} else None, charge=CHARGED if kind == "REFUND" else None,
        at=float(version),
    )  # fmt: skip


def links(before: int, after: int) -> list[Link]:
    """What an answer says of the team; the group has 50.00 more."""
    return [Link(TEAM, before, after), Link(GROUP, before + 50_00, after + 50_00)]


def told(entry: UUID, captured: int, released: int, state: str) -> Told:
    return Told(entry=entry, hold=HOLD, hold_numbers=(10_00, captured, released, state))


class Case:
    """A sound run: 30.00 charged and 5.00 of it refunded, 10.00 held, 4.00 of that captured and the rest released."""

    def __init__(self) -> None:
        self.charge = Asked(method="Charge", key="k1", budget=TEAM, amount=30_00, answered=1.1)
        self.charge.told = Told(entry=CHARGED, amount=30_00, chain=links(50_00, 20_00))
        self.hold = Asked(method="CreateHold", key="k2", budget=TEAM, amount=10_00, answered=2.1)
        self.hold.told = told(HELD, 0, 0, "HELD")
        self.capture = Asked(method="CaptureHold", key="k3", budget=TEAM, amount=4_00, hold=HOLD, answered=3.1)
        self.capture.told = told(CAPTURED, 4_00, 6_00, "CAPTURED")
        self.refund = Asked(method="RefundCharge", key="k4", budget=TEAM, amount=5_00, charge=CHARGED, answered=4.1)
        self.refund.told = Told(entry=REFUNDED, amount=5_00, chain=links(16_00, 21_00), refundable=25_00)
        self.refused = Asked(method="Charge", key="k5", budget=TEAM, amount=15_00)
        self.refused.denials = [no_room(began=2.2, ended=2.8, available=10_00)]
        self.asked = [self.charge, self.hold, self.capture, self.refund, self.refused]
        used = (29_00, 0, 0, 4_00)
        self.ledger = Ledger(
            budgets={GROUP: budget(GROUP, 100_00, used), TEAM: budget(TEAM, 50_00, used, GROUP)},
            entries=[
                entry(CHARGED, "CHARGE", 1, 30_00, (30_00, 0, 0, 0), (30_00, 0, 0), "k1"),
                entry(HELD, "HOLD", 2, 10_00, (0, 10_00, 0, 0), (30_00, 10_00, 0), "k2"),
                entry(CAPTURED, "CAPTURE", 3, 4_00, (4_00, -10_00, 0, 4_00), (34_00, 0, 0), "k3"),
                entry(REFUNDED, "REFUND", 4, 5_00, (-5_00, 0, 0, 0), (29_00, 0, 0), "k4"),
            ],
            holds={HOLD: HoldNow(id=HOLD, budget=TEAM, numbers=(10_00, 4_00, 6_00, "CAPTURED"), expires=None)},
            alerts=[AlertNow(id=ALERT, budget=TEAM, mark=("THRESHOLD", 5000), open=True)],
            alerts_said=[ALERT],
        )

    def found(self) -> Sequence[Finding]:
        return Checker(self.ledger, self.asked).check()


def no_room(*, began: float, ended: float, available: int) -> Denied:
    numbers = {"budget_id": f"bud_{TEAM.hex}", "requested": "1500", "available": str(available)}
    return Denied(reason="BUDGET_EXCEEDED", numbers=numbers, began=began, ended=ended)


def test_a_sound_run_passes() -> None:
    assert Case().found() == []


def a_gap(case: Case) -> None:
    del case.ledger.entries[1]


def a_key_done_twice(case: Case) -> None:
    case.ledger.entries[3] = replace(case.ledger.entries[3], entry_type="CHARGE", key="k1", charge=None)


def one_cent_too_much(case: Case) -> None:
    first = case.ledger.entries[0]
    case.ledger.entries[0] = replace(first, after=[(50_00, 30_01, 0, 0), first.after[1]])


def a_lost_answer(case: Case) -> None:
    case.asked.append(replace(case.charge, key="k9"))


def what_nobody_asked_for(case: Case) -> None:
    case.asked.remove(case.hold)


def a_charge_beyond_the_policy(case: Case) -> None:
    case.ledger.budgets[TEAM].policy, case.ledger.budgets[TEAM].opened_with = "BLOCK", 39_99


def a_counter_that_differs(case: Case) -> None:
    case.ledger.budgets[GROUP].numbers = (100_00, 29_01, 0, 0, 4_00)


def another_amount_told(case: Case) -> None:
    case.charge.told = Told(entry=CHARGED, amount=30_01, chain=links(50_00, 20_00))


def another_balance_told(case: Case) -> None:
    case.charge.told = Told(entry=CHARGED, amount=30_00, chain=links(50_00, 20_01))


def another_hold_told(case: Case) -> None:
    case.capture.told = told(CAPTURED, 4_00, 0, "HELD")


def a_refusal_with_room(case: Case) -> None:
    case.refused.denials = [no_room(began=2.2, ended=2.8, available=15_00)]


def a_refusal_out_of_time(case: Case) -> None:
    case.refused.denials = [no_room(began=3.2, ended=3.8, available=10_00)]


def a_refusal_of_what_was_taken(case: Case) -> None:
    case.refused = replace(case.refused, key="k1", method="Charge")
    case.charge.denials = [no_room(began=0.5, ended=2.5, available=10_00)]


def a_refusal_after_the_answer(case: Case) -> None:
    case.refund.denials = [Denied(reason="REFUND_EXCEEDS_CHARGE", numbers={"requested": "3000", "available": "2500"},
                                  began=5.0, ended=5.1)]  # fmt: skip


def a_refused_key_in_the_ledger(case: Case) -> None:
    case.charge.told = None


def an_unknown_refusal(case: Case) -> None:
    case.refused.denials = [Denied(reason="BUDGET_NOT_FOUND", numbers={}, began=2.2, ended=2.8)]


def a_hold_that_ends_twice(case: Case) -> None:
    again = replace(case.ledger.entries[3], entry_type="RELEASE", hold=HOLD, charge=None, moved=(0, -5_00, 0, 0, 0))
    case.ledger.entries[3] = again


def a_hold_that_differs(case: Case) -> None:
    case.ledger.holds[HOLD].numbers = (10_00, 4_00, 0, "HELD")


def a_refund_of_too_much(case: Case) -> None:
    case.ledger.entries[3] = replace(case.ledger.entries[3], amount=30_01)


def an_alert_missing(case: Case) -> None:
    case.ledger.alerts.clear()
    case.ledger.alerts_said.clear()


def an_alert_twice(case: Case) -> None:
    case.ledger.alerts.append(replace(case.ledger.alerts[0], id=UUID(int=5), open=False))
    case.ledger.alerts_said.append(UUID(int=5))


def an_alert_said_twice(case: Case) -> None:
    case.ledger.alerts_said.append(ALERT)


def an_event_not_published(case: Case) -> None:
    case.ledger.unpublished = 1


@pytest.mark.parametrize(
    ("doctor", "kind", "says"),
    [
        (a_gap, "WRONG", "version 3 stands where 2 should"),
        (a_key_done_twice, "DOUBLED", "Charge k1 was done 2 times"),
        (one_cent_too_much, "WRONG", "version 1 says (5000, 3001, 0, 0)"),
        (a_lost_answer, "LOST", "Charge k9 was answered"),
        (what_nobody_asked_for, "WRONG", "nobody asked for 1 HOLD with the key k2"),
        (a_charge_beyond_the_policy, "WRONG", "version 2 uses 4000, its policy allows 3999"),
        (a_counter_that_differs, "WRONG", "the budget says (10000, 2901, 0, 0, 400)"),
        (another_amount_told, "WRONG", "3000 asked, 3001 told"),
        (another_balance_told, "WRONG", "Charge k1 was told"),
        (another_hold_told, "WRONG", "CaptureHold k3 was told (1000, 400, 0, 'HELD')"),
        (a_refusal_with_room, "WRONG", "1500 was refused, though 1500 was there"),
        (a_refusal_out_of_time, "WRONG", "never had 1000 left"),
        (a_refusal_of_what_was_taken, "WRONG", "refused for want of the room that it had taken itself"),
        (a_refusal_after_the_answer, "WRONG", "was answered, and refused afterwards"),
        (a_refused_key_in_the_ledger, "WRONG", "Charge k1 was refused, and is in the ledger"),
        (an_unknown_refusal, "WRONG", "refused with BUDGET_NOT_FOUND"),
        (a_hold_that_ends_twice, "DOUBLED", "goes on after its end"),
        (a_hold_that_differs, "WRONG", "600 of holds is open, (0, 0) held and committed"),
        (a_refund_of_too_much, "WRONG", "more was refunded"),
        (an_alert_missing, "WRONG", "0 alerts are open for ('THRESHOLD', 5000)"),
        (an_alert_twice, "DOUBLED", "was passed 1 times"),
        (an_alert_said_twice, "WRONG", "not every alert was said exactly once"),
        (an_event_not_published, "WRONG", "1 events are not published"),
    ],
    ids=lambda given: getattr(given, "__name__", ""),
)  # fmt: skip
def test_a_doctored_run_is_told(doctor: Callable[[Case], None], kind: str, says: str) -> None:
    case = Case()
    doctor(case)
    assert [finding for finding in case.found() if finding.kind == kind and says in finding.what], case.found()
