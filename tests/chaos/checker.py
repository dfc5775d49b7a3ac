"""Check all replies against the ledger, in the order of its versions. No I/O; a test shows that each check can fail."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar
from uuid import UUID

from tests.chaos.record import ENTRY_TYPES, Entry, Ledger, Rejection, Result, SentRequest, StoredBudget, StoredHold

_SLACK_S: Final = 0.005
"""Tolerance between timestamps of callers and of the database on the same machine."""
_OPEN: Final = ("HELD", "COMMITTED")
_BP: Final = 10_000


class Finding(NamedTuple):
    """A violation: LOST, DOUBLED or WRONG, with its description."""

    kind: str
    text: str


class Step(NamedTuple):
    """A version of a budget: its entry, its numbers, and the time in which it was current."""

    entry: Entry | None
    version: int
    amount: int
    used: int
    since: float
    until: float


class HoldStep(NamedTuple):
    """A hold after an entry: amount, captured, released, state, and the time in which they were current."""

    entry: Entry
    numbers: tuple[int, int, int, str]
    since: float
    until: float

    @property
    def open(self) -> int:
        """The amount that is still held."""
        amount, captured, released, _ = self.numbers
        return amount - captured - released


AnyStep = TypeVar("AnyStep", Step, HoldStep)


@dataclass(slots=True)
class Checker:
    """Checks a ledger and the sent requests; `check` returns the findings."""

    ledger: Ledger
    sent: Sequence[SentRequest]
    findings: list[Finding] = field(default_factory=list)
    steps: dict[UUID, list[Step]] = field(default_factory=dict)
    holds: dict[UUID, list[HoldStep]] = field(default_factory=dict)
    refunds: dict[UUID, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    entries: dict[UUID, Entry] = field(default_factory=dict)

    def check(self) -> list[Finding]:
        """Return all findings; empty if the run is correct."""
        self.entries = {entry.id: entry for entry in self.ledger.entries}
        for budget in self.ledger.budgets.values():
            self.steps[budget.id] = list(self._steps(budget))
        self._check_holds()
        self._check_refunds()
        self._check_keys()
        for sent in self.sent:
            for rejection in sent.rejections:
                self._check_rejection(sent, rejection)
        self._check_alerts()
        if self.ledger.unpublished:
            self._add(f"{self.ledger.unpublished} events are not published")
        return self.findings

    def _add(self, text: str, kind: str = "WRONG") -> None:
        self.findings.append(Finding(kind, text))

    def _steps(self, budget: StoredBudget) -> Iterator[Step]:
        """Yield the versions of a budget; each must follow from the previous one and satisfy the policy."""
        change = [(e.versions[e.chain.index(budget.id)], e) for e in self.ledger.entries if budget.id in e.chain]
        change.sort(key=lambda item: item[0])
        numbers = (budget.initial_amount, 0, 0, 0, 0)
        times = [*(entry.at for _, entry in change), float("inf")]
        yield Step(None, 0, budget.initial_amount, 0, 0.0, times[0])
        for place, (version, entry) in enumerate(change, 1):
            if version != place:
                self._add(f"{budget.id}: has version {version}, expected {place}")
            before, numbers = numbers, _add_change(numbers, entry.change)
            result = entry.after[entry.chain.index(budget.id)]
            if result != numbers[:4]:
                self._add(f"{budget.id}: version {version} has {result}, expected {numbers[:4]} after the previous one")
            self._check_policy(budget, before, numbers, version)
            yield Step(entry, version, numbers[0], sum(numbers[1:4]), entry.at, times[place])
        if (budget.numbers, budget.version) != (numbers, len(change)):
            self._add(f"{budget.id}: the budget has {budget.numbers}, its ledger {numbers}")

    def _check_policy(
        self, budget: StoredBudget, before: Sequence[int], after: Sequence[int], version: int
    ) -> None:  # fmt: skip
        limit, used = budget.limit(after[0]), sum(after[1:4])
        if min(after[1:]) < 0:
            self._add(f"{budget.id}: version {version} has negative amounts: {after}")
        if limit is not None and used > limit and used > sum(before[1:4]):
            self._add(f"{budget.id}: version {version} uses {used}, its policy allows {limit}")

    def _check_holds(self) -> None:
        """Each hold must follow from its entries and end once; the open amounts must equal held and committed."""
        change: dict[UUID, list[Entry]] = defaultdict(list)
        for entry in sorted(self.ledger.entries, key=lambda entry: entry.versions[0]):
            if entry.hold:
                change[entry.hold].append(entry)
        for id in change.keys() | self.ledger.holds.keys():
            self.holds[id] = list(_hold_steps(change[id]))
            self._check_hold(id, self.ledger.holds.get(id), self.holds[id])
        for budget in self.ledger.budgets.values():
            below = self._descendants(budget.id)
            open_sum = sum(
                hold.numbers[0] - hold.numbers[1] - hold.numbers[2]
                for hold in self.ledger.holds.values()
                if hold.budget in below and hold.numbers[3] in _OPEN
            )
            _, _, held, committed, _ = budget.numbers
            if open_sum != held + committed:
                self._add(
                    f"{budget.id}: open holds sum up to {open_sum}, the budget has {held} held, {committed} committed"
                )

    def _check_hold(self, id: UUID, now: StoredHold | None, steps: Sequence[HoldStep]) -> None:
        if not steps or steps[0].entry.entry_type != "HOLD":
            self._add(f"hold {id} has no HOLD entry")
            return
        for before, step in pairwise(steps):
            if before.numbers[3] not in _OPEN or step.entry.entry_type == "HOLD":
                self._add(f"hold {id} has an entry after its end: {step.entry.entry_type}", "DOUBLED")
        if min(step.open for step in steps) < 0:
            self._add(f"hold {id}: more was captured or released than held")
        if now is None or now.numbers != steps[-1].numbers:
            self._add(f"hold {id} has {now and now.numbers}, its entries give {steps[-1].numbers}")

    def _descendants(self, budget: UUID) -> set[UUID]:
        children = [row.id for row in self.ledger.budgets.values() if row.parent == budget]
        return {budget}.union(*map(self._descendants, children))

    def _check_refunds(self) -> None:
        for entry in sorted(self.ledger.entries, key=lambda entry: entry.versions[0]):
            if entry.entry_type == "REFUND" and entry.charge:
                self.refunds[entry.charge].append(entry)
        for charge, entries in self.refunds.items():
            if sum(entry.amount for entry in entries) > self._spent(charge):
                self._add(f"charge {charge}: more was refunded than spent")

    def _spent(self, charge: UUID | None) -> int:
        entry = self.entries.get(charge) if charge else None
        return entry.amount if entry and entry.entry_type in {"CHARGE", "CAPTURE"} else 0

    def _check_keys(self) -> None:
        """Every accepted request must be in the ledger once with its numbers, and nothing else."""
        by_key: dict[tuple[str, str], list[Entry]] = defaultdict(list)
        for entry in self.ledger.entries:
            if entry.key:
                by_key[entry.entry_type, entry.key].append(entry)
            elif not (entry.entry_type == "EXPIRE" and self._is_expired(entry)):
                self._add(f"no request for {entry.entry_type} {entry.id}")
        for sent in self.sent:
            entries = by_key.pop((ENTRY_TYPES[sent.method], sent.key), [])
            if len(entries) > 1:
                self._add(f"{sent.method} {sent.key} was executed {len(entries)} times", "DOUBLED")
            if sent.result and not entries:
                self._add(f"{sent.method} {sent.key} was accepted, but is not in the ledger", "LOST")
            elif sent.result:
                self._check_result(sent, sent.result, entries[0])
            elif entries:
                self._add(f"{sent.method} {sent.key} was rejected, but is in the ledger")
        for (entry_type, key), entries in by_key.items():
            self._add(f"no request for {len(entries)} {entry_type} with the key {key}")

    def _is_expired(self, entry: Entry) -> bool:
        hold = self.ledger.holds.get(entry.hold) if entry.hold else None
        return hold is not None and hold.expires is not None and hold.expires <= entry.at + _SLACK_S

    def _check_result(self, sent: SentRequest, result: Result, entry: Entry) -> None:
        name = f"{sent.method} {sent.key}"
        if (result.entry, sent.budget) != (entry.id, entry.budget):
            self._add(f"{name} returned the entry {result.entry}, the ledger has {entry.id}")
        if sent.amount not in {None, entry.amount} or result.amount not in {None, entry.amount}:
            self._add(f"{name}: {sent.amount} requested, {result.amount} returned, {entry.amount} in the ledger")
        taken = sum(entry.change[1:4])
        left = [amount - spent - held - committed for amount, spent, held, committed in entry.after]
        chain = [(budget, after + taken, after) for budget, after in zip(entry.chain, left, strict=True)]
        if result.chain and [tuple(link) for link in result.chain] != chain:
            self._add(f"{name} returned {result.chain}, the ledger has {chain}")
        if result.hold:
            steps = [step.numbers for step in self.holds.get(result.hold, []) if step.entry.id == entry.id]
            if steps != [result.hold_numbers]:
                self._add(f"{name} returned the hold {result.hold_numbers}, the ledger has {steps}")
        if result.refundable is not None and sent.charge:
            self._check_refundable(name, result.refundable, sent.charge, entry)

    def _check_refundable(self, name: str, refundable: int, charge: UUID, entry: Entry) -> None:
        left = self._spent(charge) - sum(e.amount for e in self.refunds[charge] if e.versions[0] <= entry.versions[0])
        if refundable != left:
            self._add(f"{name} returned {refundable} refundable, the ledger has {left}")

    def _check_rejection(self, sent: SentRequest, rejection: Rejection) -> None:
        """A rejection is correct if its facts were true at some time between request and reply."""
        name = f"{sent.method} {sent.key}"
        if sent.result and sent.reply_time < rejection.start_time:
            self._add(f"{name} was accepted, and later rejected with {rejection.reason}")
        if rejection.reason in {"BUDGET_EXCEEDED", "APPROVAL_REQUIRED"}:
            self._check_insufficient_budget(name, sent, rejection)
        elif rejection.reason == "HOLD_STATE":
            states = {step.numbers[3] for step in self._of_hold(sent, rejection)}
            if rejection.numbers["state"] not in states:
                self._add(f"{name}: the hold had the states {states}, not {rejection.numbers['state']}")
        elif rejection.reason == "HOLD_EXCEEDED":
            self._check_insufficient_rest(name, rejection, {step.open for step in self._of_hold(sent, rejection)})
        elif rejection.reason == "REFUND_EXCEEDS_CHARGE":
            self._check_insufficient_rest(name, rejection, set(self._refundable(sent, rejection)))
        elif rejection.reason == "HOLD_EXPIRED":
            hold = self.ledger.holds[sent.hold] if sent.hold else None
            if hold is None or hold.expires is None or hold.expires > rejection.end_time + _SLACK_S:
                self._add(f"{name}: was rejected as expired, but the hold was not")
        elif rejection.reason != "BATCH_REFUSED":
            self._add(f"{name} was rejected with {rejection.reason}")

    def _check_insufficient_budget(self, name: str, sent: SentRequest, rejection: Rejection) -> None:
        budget = self.ledger.budgets[UUID(rejection.numbers["budget_id"].removeprefix("bud_"))]
        requested, available = int(rejection.numbers["requested"]), int(rejection.numbers["available"])
        if requested <= available:
            self._add(f"{name}: {requested} was rejected, though {available} was available")
        undone = sum(amount for other, amount in rejection.earlier_in_batch if budget.id in self._chain(other))
        versions = [
            step
            for step in _steps_during(self.steps[budget.id], rejection)
            if (budget.limit(step.amount) or 0) - step.used - undone == available
        ]
        if not versions:
            self._add(f"{name}: {budget.id} never had {available} available during the rejection")
        elif sent.result and all(self._includes_own_entry(sent, budget.id, step) for step in versions):
            self._add(f"{name} was rejected because of its own accepted charge")

    def _includes_own_entry(self, sent: SentRequest, budget: UUID, step: Step) -> bool:
        """True if this version of the budget includes the entry of the request itself."""
        own = self.entries.get(sent.result.entry) if sent.result else None
        return own is not None and budget in own.chain and own.versions[own.chain.index(budget)] <= step.version

    def _chain(self, budget: UUID | None) -> Iterator[UUID]:
        while budget:
            yield budget
            budget = self.ledger.budgets[budget].parent

    def _of_hold(self, sent: SentRequest, rejection: Rejection) -> list[HoldStep]:
        return list(_steps_during(self.holds.get(sent.hold, []), rejection)) if sent.hold else []

    def _refundable(self, sent: SentRequest, rejection: Rejection) -> Iterator[int]:
        """Yield the refundable amounts of a charge during a rejection."""
        left = self._spent(sent.charge)
        since = 0.0
        for entry in self.refunds[sent.charge] if sent.charge else ():
            if since - _SLACK_S <= rejection.end_time and rejection.start_time <= entry.at + _SLACK_S:
                yield left
            left, since = left - entry.amount, entry.at
        if since - _SLACK_S <= rejection.end_time:
            yield left

    def _check_insufficient_rest(self, name: str, rejection: Rejection, had: set[int]) -> None:
        requested, available = int(rejection.numbers["requested"]), int(rejection.numbers["available"])
        # A request for all that is left is also rejected if nothing is left.
        if available not in had or (requested <= available and available):
            self._add(f"{name}: {requested} was rejected with {available} left; the ledger had {sorted(had)}")

    def _check_alerts(self) -> None:
        """An exceeded threshold must have one open alert, at most one alert per crossing, each published once."""
        raised = Counter((alert.budget, alert.threshold) for alert in self.ledger.alerts)
        still_open = Counter((alert.budget, alert.threshold) for alert in self.ledger.alerts if alert.open)
        for budget in self.ledger.budgets.values():
            passed: Counter[tuple[str, int]] = Counter()
            had: set[tuple[str, int]] = set()
            for step in self.steps[budget.id]:
                has = _thresholds_reached(budget, step)
                passed.update(has - had)
                had = has
            for threshold in {*passed, *(threshold for owner, threshold in raised if owner == budget.id)}:
                if still_open[budget.id, threshold] != (threshold in had):
                    self._add(f"{budget.id}: {still_open[budget.id, threshold]} open alerts for {threshold}")
                if raised[budget.id, threshold] > passed[threshold]:
                    self._add(f"{budget.id}: {threshold} was crossed {passed[threshold]} times", "DOUBLED")
        if Counter(self.ledger.published_alerts) != Counter(alert.id for alert in self.ledger.alerts):
            self._add("not every alert was published exactly once")


def _add_change(numbers: tuple[int, int, int, int, int], change: Sequence[int]) -> tuple[int, int, int, int, int]:
    a, s, h, c, k = (number + change for number, change in zip(numbers, change, strict=True))
    return a, s, h, c, k


def _steps_during(steps: Sequence[AnyStep], rejection: Rejection) -> Sequence[AnyStep]:
    """Return the steps that were current at some time between request and reply."""
    first = bisect_left(steps, rejection.start_time - _SLACK_S, key=lambda step: step.until)
    last = bisect_right(steps, rejection.end_time + _SLACK_S, key=lambda step: step.since)
    return steps[first:last]


def _hold_steps(entries: Sequence[Entry]) -> Iterator[HoldStep]:
    amount = captured = released = 0
    state = ""
    times = [*(entry.at for entry in entries[1:]), float("inf")]
    for entry, until in zip(entries, times, strict=bool(entries)):
        _, spent, held, committed, _ = entry.change
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


def _thresholds_reached(budget: StoredBudget, step: Step) -> set[tuple[str, int]]:
    passed = {("THRESHOLD", bp) for bp in budget.thresholds_bp if step.used > 0 and step.used * _BP >= step.amount * bp}
    return passed | {("OVERSPEND", _BP)} if step.used > step.amount else passed
