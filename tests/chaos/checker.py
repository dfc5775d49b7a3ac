"""Checks all that was answered against the ledger, in the order of its versions. Pure; a test shows that it fails."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from tests.chaos.record import ENTRY_TYPES, Asked, BudgetNow, Denied, Entry, HoldNow, Ledger, Told

_SLACK_S: Final = 0.005
"""How far the clocks of callers and database, which are one, may be apart for a moment."""
_OPEN: Final = ("HELD", "COMMITTED")
_BP: Final = 10_000


class Finding(NamedTuple):
    """Something that must never be: LOST, DOUBLED or WRONG, and what."""

    kind: str
    what: str


class Step(NamedTuple):
    """A version of a budget: the entry that made it, its numbers, and until when it was the newest."""

    entry: Entry | None
    version: int
    amount: int
    used: int
    since: float
    until: float


class HoldStep(NamedTuple):
    """What an entry made of a hold: amount, captured, released, state; and until when."""

    entry: Entry
    numbers: tuple[int, int, int, str]
    since: float
    until: float

    @property
    def open(self) -> int:
        """What is still set aside."""
        amount, captured, released, _ = self.numbers
        return amount - captured - released


AnyStep = TypeVar("AnyStep", Step, HoldStep)


@dataclass(slots=True)
class Checker:
    """What was found; `check` fills it."""

    ledger: Ledger
    asked: Sequence[Asked]
    found: list[Finding] = field(default_factory=list)
    steps: dict[UUID, list[Step]] = field(default_factory=dict)
    holds: dict[UUID, list[HoldStep]] = field(default_factory=dict)
    refunds: dict[UUID, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[UUID, Entry] = field(default_factory=dict)

    def check(self) -> list[Finding]:
        """Everything that is wrong; empty if all is well."""
        self.entries = {entry.id: entry for entry in self.ledger.entries}
        for budget in self.ledger.budgets.values():
            self.steps[budget.id] = list(self._walk(budget))
        self._check_holds()
        self._check_refunds()
        self._check_keys()
        for asked in self.asked:
            for denied in asked.denials:
                self._check_denied(asked, denied)
        self._check_alerts()
        if self.ledger.unpublished:
            self._wrong(f"{self.ledger.unpublished} events are not published")
        return self.found

    def _wrong(self, what: str, kind: str = "WRONG") -> None:
        self.found.append(Finding(kind, what))

    def _walk(self, budget: BudgetNow) -> Iterator[Step]:
        """The versions of a budget; each must follow from the one before, and keep to the policy."""
        moved = [(e.versions[e.chain.index(budget.id)], e) for e in self.ledger.entries if budget.id in e.chain]
        moved.sort(key=lambda item: item[0])
        numbers = (budget.opened_with, 0, 0, 0, 0)
        times = [*(entry.at for _, entry in moved), float("inf")]
        yield Step(None, 0, budget.opened_with, 0, 0.0, times[0])
        for place, (version, entry) in enumerate(moved, 1):
            if version != place:
                self._wrong(f"{budget.id}: version {version} stands where {place} should")
            before, numbers = numbers, _sum(numbers, entry.moved)
            told = entry.after[entry.chain.index(budget.id)]
            if told != numbers[:4]:
                self._wrong(f"{budget.id}: version {version} says {told}, {numbers[:4]} follows from the one before")
            self._check_policy(budget, before, numbers, version)
            yield Step(entry, version, numbers[0], sum(numbers[1:4]), entry.at, times[place])
        if (budget.numbers, budget.version) != (numbers, len(moved)):
            self._wrong(f"{budget.id}: the budget says {budget.numbers}, its ledger {numbers}")

    def _check_policy(
        self, budget: BudgetNow, before: Sequence[int], after: Sequence[int], version: int
    ) -> None:  # fmt: skip
        limit, used = budget.limit(after[0]), sum(after[1:4])
        if min(after[1:]) < 0:
            self._wrong(f"{budget.id}: version {version} has less than nothing: {after}")
        if limit is not None and used > limit and used > sum(before[1:4]):
            self._wrong(f"{budget.id}: version {version} uses {used}, its policy allows {limit}")

    def _check_holds(self) -> None:
        """Each hold follows from its entries, and ends once; what is open of all is held or committed."""
        moved: dict[UUID, list[Entry]] = defaultdict(list)
        for entry in sorted(self.ledger.entries, key=lambda entry: entry.versions[0]):
            if entry.hold:
                moved[entry.hold].append(entry)
        for id in moved.keys() | self.ledger.holds.keys():
            self.holds[id] = list(_hold_steps(moved[id]))
            self._check_hold(id, self.ledger.holds.get(id), self.holds[id])
        for budget in self.ledger.budgets.values():
            below = self._below(budget.id)
            open_sum = sum(
                hold.numbers[0] - hold.numbers[1] - hold.numbers[2]
                for hold in self.ledger.holds.values()
                if hold.budget in below and hold.numbers[3] in _OPEN
            )
            if open_sum != budget.numbers[2] + budget.numbers[3]:
                self._wrong(f"{budget.id}: {open_sum} of holds is open, {budget.numbers[2:4]} held and committed")

    def _check_hold(self, id: UUID, now: HoldNow | None, steps: Sequence[HoldStep]) -> None:
        if not steps or steps[0].entry.entry_type != "HOLD":
            self._wrong(f"the hold {id} was never made")
            return
        for before, step in pairwise(steps):
            if before.numbers[3] not in _OPEN or step.entry.entry_type == "HOLD":
                self._wrong(f"the hold {id} goes on after its end: {step.entry.entry_type}", "DOUBLED")
        if min(step.open for step in steps) < 0:
            self._wrong(f"more was taken of the hold {id} than it had")
        if now is None or now.numbers != steps[-1].numbers:
            self._wrong(f"the hold {id} is {now and now.numbers}, its entries say {steps[-1].numbers}")

    def _below(self, budget: UUID) -> set[UUID]:
        children = [row.id for row in self.ledger.budgets.values() if row.parent == budget]
        return {budget}.union(*map(self._below, children))

    def _check_refunds(self) -> None:
        for entry in sorted(self.ledger.entries, key=lambda entry: entry.versions[0]):
            if entry.entry_type == "REFUND" and entry.charge:
                self.refunds[entry.charge].append(entry)
        for charge, entries in self.refunds.items():
            if sum(entry.amount for entry in entries) > self._spent(charge):
                self._wrong(f"more was refunded of {charge} than was spent")

    def _spent(self, charge: UUID | None) -> int:
        entry = self.entries.get(charge) if charge else None
        return entry.amount if entry and entry.entry_type in {"CHARGE", "CAPTURE"} else 0

    def _check_keys(self) -> None:
        """Every answer is in the ledger once with its numbers, and nothing else is."""
        by_key: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.ledger.entries:
            if entry.key:
                by_key[entry.entry_type, entry.key].append(entry)
            elif not (entry.entry_type == "EXPIRE" and self._was_due(entry)):
                self._wrong(f"nobody asked for {entry.entry_type} {entry.id}")
        for asked in self.asked:
            entries = by_key.pop((ENTRY_TYPES[asked.method], asked.key), [])
            if len(entries) > 1:
                self._wrong(f"{asked.method} {asked.key} was done {len(entries)} times", "DOUBLED")
            if asked.told and not entries:
                self._wrong(f"{asked.method} {asked.key} was answered, and is not in the ledger", "LOST")
            elif asked.told:
                self._check_told(asked, asked.told, entries[0])
            elif entries:
                self._wrong(f"{asked.method} {asked.key} was refused, and is in the ledger")
        for (entry_type, key), entries in by_key.items():
            self._wrong(f"nobody asked for {len(entries)} {entry_type} with the key {key}")

    def _was_due(self, entry: Entry) -> bool:
        hold = self.ledger.holds.get(entry.hold) if entry.hold else None
        return hold is not None and hold.expires is not None and hold.expires <= entry.at + _SLACK_S

    def _check_told(self, asked: Asked, told: Told, entry: Entry) -> None:
        name = f"{asked.method} {asked.key}"
        if (told.entry, asked.budget) != (entry.id, entry.budget):
            self._wrong(f"{name} was answered with the entry {told.entry}, the ledger has {entry.id}")
        if asked.amount not in {None, entry.amount} or told.amount not in {None, entry.amount}:
            self._wrong(f"{name}: {asked.amount} asked, {told.amount} told, {entry.amount} in the ledger")
        takes = sum(entry.moved[1:4])
        left = [amount - spent - held - committed for amount, spent, held, committed in entry.after]
        chain = [(budget, after + takes, after) for budget, after in zip(entry.chain, left, strict=True)]
        if told.chain and [tuple(link) for link in told.chain] != chain:
            self._wrong(f"{name} was told {told.chain}, the ledger says {chain}")
        if told.hold:
            steps = [step.numbers for step in self.holds.get(told.hold, []) if step.entry.id == entry.id]
            if steps != [told.hold_numbers]:
                self._wrong(f"{name} was told {told.hold_numbers} of the hold, the ledger says {steps}")
        if told.refundable is not None and asked.charge:
            self._check_refundable(name, told.refundable, asked.charge, entry)

    def _check_refundable(self, name: str, refundable: int, charge: UUID, entry: Entry) -> None:
        left = self._spent(charge) - sum(e.amount for e in self.refunds[charge] if e.versions[0] <= entry.versions[0])
        if refundable != left:
            self._wrong(f"{name} was told that {refundable} is left, the ledger says {left}")

    def _check_denied(self, asked: Asked, denied: Denied) -> None:
        """A refusal is right if, at a moment between question and answer, things were as it says."""
        name = f"{asked.method} {asked.key}"
        if asked.told and asked.answered < denied.began:
            self._wrong(f"{name} was answered, and refused afterwards with {denied.reason}")
        if denied.reason in {"BUDGET_EXCEEDED", "APPROVAL_REQUIRED"}:
            self._check_no_room(name, asked, denied)
        elif denied.reason == "HOLD_STATE":
            states = {step.numbers[3] for step in self._of_hold(asked, denied)}
            if denied.numbers["state"] not in states:
                self._wrong(f"{name}: the hold was in {states}, not {denied.numbers['state']}")
        elif denied.reason == "HOLD_EXCEEDED":
            self._check_too_little(name, denied, {step.open for step in self._of_hold(asked, denied)})
        elif denied.reason == "REFUND_EXCEEDS_CHARGE":
            self._check_too_little(name, denied, set(self._refundable(asked, denied)))
        elif denied.reason == "HOLD_EXPIRED":
            hold = self.ledger.holds[asked.hold] if asked.hold else None
            if hold is None or hold.expires is None or hold.expires > denied.ended + _SLACK_S:
                self._wrong(f"{name}: the hold was refused as expired, which it was not")
        elif denied.reason != "BATCH_REFUSED":
            self._wrong(f"{name} was refused with {denied.reason}")

    def _check_no_room(self, name: str, asked: Asked, denied: Denied) -> None:
        budget = self.ledger.budgets[UUID(denied.numbers["budget_id"].removeprefix("bud_"))]
        requested, available = int(denied.numbers["requested"]), int(denied.numbers["available"])
        if requested <= available:
            self._wrong(f"{name}: {requested} was refused, though {available} was there")
        undone = sum(amount for other, amount in denied.together if budget.id in self._chain(other))
        versions = [
            step
            for step in _within(self.steps[budget.id], denied)
            if (budget.limit(step.amount) or 0) - step.used - undone == available
        ]
        if not versions:
            self._wrong(f"{name}: {budget.id} never had {available} left while it was refused")
        elif asked.told and all(self._is_in(asked, budget.id, step) for step in versions):
            self._wrong(f"{name} was refused for want of the room that it had taken itself")

    def _is_in(self, asked: Asked, budget: UUID, step: Step) -> bool:
        """Whether the request had been taken already when the budget was in this version."""
        own = self.entries.get(asked.told.entry) if asked.told else None
        return own is not None and budget in own.chain and own.versions[own.chain.index(budget)] <= step.version

    def _chain(self, budget: UUID | None) -> Iterator[UUID]:
        while budget:
            yield budget
            budget = self.ledger.budgets[budget].parent

    def _of_hold(self, asked: Asked, denied: Denied) -> list[HoldStep]:
        return list(_within(self.holds.get(asked.hold, []), denied)) if asked.hold else []

    def _refundable(self, asked: Asked, denied: Denied) -> Iterator[int]:
        """What was left of a charge at the moments of a refusal."""
        left = self._spent(asked.charge)
        since = 0.0
        for entry in self.refunds[asked.charge] if asked.charge else ():
            if since - _SLACK_S <= denied.ended and denied.began <= entry.at + _SLACK_S:
                yield left
            left, since = left - entry.amount, entry.at
        if since - _SLACK_S <= denied.ended:
            yield left

    def _check_too_little(self, name: str, denied: Denied, had: set[int]) -> None:
        requested, available = int(denied.numbers["requested"]), int(denied.numbers["available"])
        # Nothing is left, and all that is left was asked for: that is refused as well.
        if available not in had or (requested <= available and available):
            self._wrong(f"{name}: {requested} was refused with {available} left, which was {sorted(had)}")

    def _check_alerts(self) -> None:
        """What is past at the end has one alert; no mark has more of them than it was passed; each was said once."""
        raised = Counter((alert.budget, alert.mark) for alert in self.ledger.alerts)
        still_open = Counter((alert.budget, alert.mark) for alert in self.ledger.alerts if alert.open)
        for budget in self.ledger.budgets.values():
            passed: Counter[tuple[str, int]] = Counter()
            had: set[tuple[str, int]] = set()
            for step in self.steps[budget.id]:
                has = _marks(budget, step)
                passed.update(has - had)
                had = has
            for mark in {*passed, *(mark for owner, mark in raised if owner == budget.id)}:
                if still_open[budget.id, mark] != (mark in had):
                    self._wrong(f"{budget.id}: {still_open[budget.id, mark]} alerts are open for {mark}")
                if raised[budget.id, mark] > passed[mark]:
                    self._wrong(f"{budget.id}: {mark} was passed {passed[mark]} times", "DOUBLED")
        if Counter(self.ledger.alerts_said) != Counter(alert.id for alert in self.ledger.alerts):
            self._wrong("not every alert was said exactly once")


def _sum(numbers: tuple[int, int, int, int, int], moved: Sequence[int]) -> tuple[int, int, int, int, int]:
    a, s, h, c, k = (number + change for number, change in zip(numbers, moved, strict=True))
    return a, s, h, c, k


def _within(steps: Sequence[AnyStep], denied: Denied) -> Sequence[AnyStep]:
    """The steps that were the newest at some moment between question and answer."""
    first = bisect_left(steps, denied.began - _SLACK_S, key=lambda step: step.until)
    last = bisect_right(steps, denied.ended + _SLACK_S, key=lambda step: step.since)
    return steps[first:last]


def _hold_steps(entries: Sequence[Entry]) -> Iterator[HoldStep]:
    amount = captured = released = 0
    state = ""
    times = [*(entry.at for entry in entries[1:]), float("inf")]
    for entry, until in zip(entries, times, strict=bool(entries)):
        _, spent, held, committed, _ = entry.moved
        if entry.entry_type == "HOLD":
            amount, state = amount + held, "HELD"
        elif entry.entry_type == "COMMIT":
            state = "COMMITTED"
        else:
            captured += spent
            released += -(held + committed) - spent
            if amount - captured - released == 0:
                state = "EXPIRED" if entry.entry_type == "EXPIRE" else "CAPTURED" if captured else "RELEASED"
        yield HoldStep(entry, (amount, captured, released, state), entry.at, until)


def _marks(budget: BudgetNow, step: Step) -> set[tuple[str, int]]:
    passed = {("THRESHOLD", bp) for bp in budget.thresholds_bp if step.used > 0 and step.used * _BP >= step.amount * bp}
    return passed | {("OVERSPEND", _BP)} if step.used > step.amount else passed
