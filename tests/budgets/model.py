"""A small model of a tree of budgets, to check the service against: whole cents, plain dicts, one request at a time.

It is written from the protos and shares no code with the service. Everything has a name here; `ask` returns a dict of
what a caller can see: the numbers of an accepted request, or `refused` with the reason and its numbers.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

Answer = dict[str, Any]

BLOCK: Final = "BLOCK"
WARN: Final = "WARN"
TOLERANCE: Final = "ALLOW_WITHIN_TOLERANCE"
APPROVAL: Final = "REQUIRE_APPROVAL"
THRESHOLDS_BP: Final = (5000, 8000, 9000, 10000)
OPEN: Final = ("HELD", "COMMITTED")


class Refused(Exception):
    """A request that is refused and changes nothing."""

    def __init__(self, reason: str, **numbers: Any) -> None:
        super().__init__(reason)
        self.answer: Answer = {"refused": reason, **numbers}


class Tree:
    """Budgets below one another, with their whole history."""

    def __init__(self) -> None:
        self.budgets: dict[str, dict[str, Any]] = {}
        self.holds: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        """Charges and captures, by the name of their entry."""
        self.later: dict[str, str] = {}
        """The budget of the next period of each budget that was rolled over."""
        self.entries: list[dict[str, Any]] = []
        self.answered: dict[tuple[str, str], tuple[Any, Answer]] = {}

    def open(
        self, name: str, amount: int, policy: str = BLOCK, *, parent: str = "", tolerance_bp: int = 0,
        goes_over: Callable[[int], int] = lambda _: 0,
    ) -> None:  # fmt: skip
        """Create a budget, at the top or below another; `goes_over` returns what of the rest the next period gets."""
        self.budgets[name] = {
            "parent": parent, "amount": amount, "policy": policy, "tolerance_bp": tolerance_bp,
            "goes_over": goes_over, "carried": 0, "spent": 0, "held": 0, "committed": 0, "captured": 0, "version": 0,
        }  # fmt: skip

    def chain(self, name: str) -> list[str]:
        """Return the budget and all above it."""
        return [name, *self.chain(self.budgets[name]["parent"])] if name else []

    def used(self, name: str) -> int:
        """Return what is spent, held or committed."""
        budget = self.budgets[name]
        return int(budget["spent"] + budget["held"] + budget["committed"])

    def available(self, name: str) -> int:
        """What is left."""
        budget = self.budgets[name]
        return int(budget["amount"] + budget["carried"]) - self.used(name)

    def limit(self, name: str) -> int | None:
        """The most that may be used; None: there is no such thing."""
        budget = self.budgets[name]
        if budget["policy"] == WARN:
            return None
        tolerance = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return int(budget["amount"] + budget["carried"]) * (10_000 + int(tolerance)) // 10_000

    def marks(self, name: str) -> set[tuple[str, int]]:
        """The marks that are to have an open alert."""
        used, amount = self.used(name), self.budgets[name]["amount"]
        passed = {("THRESHOLD", bp) for bp in THRESHOLDS_BP if used > 0 and used * 10_000 >= amount * bp}
        return passed | {("OVERSPEND", 10_000)} if used > amount else passed

    def ask(self, method: str, key: str, **given: Any) -> Answer:
        """What the request is answered with; with a key that was answered before, what it was answered then."""
        known = self.answered.get((method, key))
        if known:
            return known[1] if known[0] == given else {"refused": "IDEMPOTENCY_MISMATCH"}
        do: Callable[..., Answer] = getattr(self, method)
        try:
            answer = do(key, **given)
        except Refused as refused:
            return refused.answer
        if key:
            self.answered[method, key] = given, answer
        return answer

    def batch(self, lines: Sequence[tuple[str, dict[str, Any]]], *, atomic: bool) -> Answer | list[Answer]:
        """What each of the charges, a key and its input, is answered with; or the whole, where it is all or none."""
        before = copy.deepcopy(self.__dict__)
        answers = [self.ask("charge", key, **given) for key, given in lines]
        refused = [index for index, answer in enumerate(answers) if "refused" in answer]
        if not (atomic and refused):
            return answers
        self.__dict__.update(before)
        first = refused[0]
        return {"refused": "BATCH_REFUSED", "line": first, "line_reason": answers[first]["refused"]}

    def charge(self, key: str, *, budget: str, amount: int) -> Answer:
        """A charge."""
        answer = self._move("CHARGE", key, budget, amount, spent=amount)
        self.charges[answer["entry"]] = {"budget": budget, "amount": amount, "refunded": 0, "captured": False}
        return answer

    def hold(self, key: str, *, budget: str, amount: int) -> Answer:
        """Money set aside."""
        moved = self._move("HOLD", key, budget, amount, held=amount)
        self.holds[moved["entry"]] = {
            "budget": budget, "amount": amount, "captured": 0, "released": 0, "state": "HELD", "due": False,
        }  # fmt: skip
        return self.told(moved["entry"])

    def commit(self, key: str, *, hold: str) -> Answer:
        """Money set aside, promised."""
        held = self._in(hold, "HELD")
        self._not_due(held)
        left = _left(held)
        self._move("COMMIT", key, held["budget"], left, held=-left, committed=left)
        held["state"] = "COMMITTED"
        return self.told(hold)

    def capture(self, key: str, *, hold: str, amount: int | None, release_rest: bool) -> Answer:
        """Money set aside, spent."""
        held = self._in(hold, *OPEN)
        self._not_due(held)
        wanted = self._part(held, amount)
        back = _left(held) - wanted if release_rest else 0
        aside = {_where(held): -wanted - back}
        moved = self._move("CAPTURE", key, held["budget"], wanted, spent=wanted, captured=wanted, **aside)
        held["captured"] += wanted
        held["released"] += back
        if not _left(held):
            held["state"] = "CAPTURED"
        spent = {"budget": held["budget"], "amount": wanted, "refunded": 0, "captured": True}
        self.charges[moved["entry"]] = spent
        return {**self.told(hold), "entry": moved["entry"]}

    def release(self, key: str, *, hold: str, amount: int | None) -> Answer:
        """Money set aside, given back."""
        held = self._in(hold, *OPEN)
        back = self._part(held, amount)
        self._move("RELEASE", key, held["budget"], back, **{_where(held): -back})
        held["released"] += back
        if not _left(held):
            held["state"] = "CAPTURED" if held["captured"] else "RELEASED"
        return self.told(hold)

    def expire(self, hold: str) -> None:
        """Money set aside, given back by the clock."""
        held = self._in(hold, "HELD")
        back = _left(held)
        self._move("EXPIRE", "", held["budget"], back, held=-back)
        held["released"] += back
        held["state"] = "EXPIRED"

    def refund(self, key: str, *, charge: str, amount: int | None) -> Answer:
        """What was spent, given back."""
        spent = self.charges[charge]
        left = spent["amount"] - spent["refunded"]
        back = left if amount is None else amount
        if back > left or not back:
            raise Refused("REFUND_EXCEEDS_CHARGE", requested=back, available=left)
        captured = -back if spent["captured"] else 0
        moved = self._move("REFUND", key, spent["budget"], back, spent=-back, captured=captured)
        spent["refunded"] += back
        return {**moved, "refundable": left - back}

    def adjust(self, key: str, *, budget: str, amount: int) -> Answer:
        """A new amount."""
        if amount < self.budgets[budget]["amount"] and amount < self.used(budget):
            raise Refused("AMOUNT_BELOW_SPENT", requested=amount, spent=self.used(budget))
        moved, self.budgets[budget]["amount"] = amount - self.budgets[budget]["amount"], amount
        self._enter("ADJUST", key, budget, moved, [budget])
        return {"amount": amount, "available": self.available(budget)}

    def transfer(self, key: str, *, source: str, target: str, amount: int) -> Answer:
        """Amount that goes from one budget to another; something stays, and what the policy asks for what is used."""
        budget = self.budgets[source]
        most = max(0, min(budget["amount"] - 1, budget["amount"] + budget["carried"] - self.needed(source)))
        if amount > most:
            raise Refused("TRANSFER_EXCEEDS_BUDGET", requested=amount, transferable=most, used=self.used(source))
        self.budgets[source]["amount"] -= amount
        self._enter("TRANSFER_OUT", key, source, amount, [source])
        self.budgets[target]["amount"] += amount
        self._enter("TRANSFER_IN", key, target, amount, [target])
        return {"amount": amount, "left": self.available(source), "reached": self.available(target)}

    def needed(self, name: str) -> int:
        """The smallest amount with which the policy allows what is used."""
        budget = self.budgets[name]
        tolerance = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return 0 if budget["policy"] == WARN else -(-self.used(name) * 10_000 // (10_000 + int(tolerance)))

    def roll_over(self) -> dict[str, str]:
        """The next period of all budgets is opened, holds and what goes over move there; gives the names of the new."""
        opened = {name: f"{name}'" for name in self.budgets}
        moving = {name: {"held": 0, "committed": 0} for name in opened}
        for held in (held for held in self.holds.values() if held["state"] in OPEN):
            for above in self.chain(held["budget"]):
                moving[above][_where(held)] += _left(held)
            held["budget"] = opened[held["budget"]]
        for name, new in opened.items():
            old, aside = self.budgets[name], moving[name]
            for number in aside:
                old[number] -= aside[number]
            carried = self._carried(name, self.available(name), sum(aside.values()), old["amount"])
            old["carried"] -= carried
            old |= {"out": carried, "moved": sum(aside.values()), "next_amount": old["amount"]}
            self.budgets[new] = {
                **old, **aside, "parent": opened.get(old["parent"], ""), "carried": carried, "spent": 0, "captured": 0,
            }  # fmt: skip
        self.later |= opened
        return opened

    def _carried(self, name: str, rest: int, aside: int, amount: int) -> int:
        """What goes over; holds bring what they need beyond the new amount, if it is left or the policy insists."""
        budget = self.budgets[name]
        carried: int = budget["goes_over"](rest)
        if not aside:
            return carried
        carried = max(carried, min(rest, aside - amount))
        if budget["policy"] in {WARN, APPROVAL}:
            return carried
        tolerance: int = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return max(carried, -(-aside * 10_000 // (10_000 + tolerance)) - amount)

    def told(self, hold: str) -> Answer:
        """The hold as callers see it."""
        held = self.holds[hold]
        shown = {name: held[name] for name in ("budget", "amount", "captured", "released", "state")}
        return {"hold": hold, **shown, "open": _left(held)}

    def _in(self, hold: str, *states: str) -> dict[str, Any]:
        held = self.holds[hold]
        if held["state"] not in states:
            raise Refused("HOLD_STATE", state=held["state"])
        return held

    @staticmethod
    def _not_due(held: dict[str, Any]) -> None:
        if held["due"] and held["state"] == "HELD":
            raise Refused("HOLD_EXPIRED")

    @staticmethod
    def _part(held: dict[str, Any], amount: int | None) -> int:
        wanted = _left(held) if amount is None else amount
        if wanted > _left(held):
            raise Refused("HOLD_EXCEEDED", requested=wanted, available=_left(held))
        return wanted

    def _move(self, kind: str, key: str, name: str, amount: int, **moved: int) -> Answer:
        """Move the budget and all above it, or raise that one of them has too little room."""
        takes = sum(moved.get(number, 0) for number in ("spent", "held", "committed"))
        before = {above: self.available(above) for above in self.chain(name)}
        budgets = copy.deepcopy(self.budgets)
        for above in self.chain(name):
            for number, change in moved.items():
                self.budgets[above][number] += change
        lost = self._correct(self.chain(name))
        try:
            if takes > 0:
                self._check_room(self.chain(name), takes)
            for later, loss in lost.items():
                self._check_room([later], loss)
        except Refused:
            self.budgets = budgets
            raise
        entry = self._enter(kind, key, name, amount, self.chain(name))
        chain = [(above, before[above], self.available(above)) for above in self.chain(name)]
        return {"entry": entry, "amount": amount, "chain": chain, "overspent": any(after < 0 for *_, after in chain)}

    def _correct(self, chain: list[str]) -> dict[str, int]:
        """Carry forward again what is left of rolled-over budgets; return what later budgets lose by that."""
        lost = {}
        for name in (name for name in chain if name in self.later):
            old, new = self.budgets[name], self.budgets[self.later[name]]
            carried = self._carried(name, self.available(name) + old["out"], old["moved"], old["next_amount"])
            change = carried - old["out"]
            old["carried"] -= change
            old["out"] += change
            new["carried"] += change
            if change < 0:
                lost[self.later[name]] = -change
        return lost

    def _check_room(self, names: list[str], takes: int) -> None:
        """Raise that one of these budgets, which were moved already, has too little room."""
        rooms = []
        for above in names:
            limit = self.limit(above)
            if limit is not None and self.used(above) > max(limit, 0):
                rooms.append((limit - self.used(above) + takes, above))
        for_good = [room for room in rooms if self.budgets[room[1]]["policy"] != APPROVAL]
        if rooms:
            # The least room; of several the lowest budget.
            room, binding = min(for_good or rooms, key=lambda found: found[0])
            reason = "BUDGET_EXCEEDED" if for_good else "APPROVAL_REQUIRED"
            raise Refused(reason, budget=binding, requested=takes, available=room)

    def _enter(self, kind: str, key: str, name: str, amount: int, moved: list[str]) -> str:
        entry = f"e{len(self.entries)}"
        after = {}
        for above in moved:
            budget = self.budgets[above]
            budget["version"] += 1
            after[above] = {number: budget[number] for number in ("version", "amount", "spent", "held", "committed")}
        self.entries.append({"id": entry, "kind": kind, "key": key, "budget": name, "amount": amount, "after": after})
        return entry


def _left(held: dict[str, Any]) -> int:
    return int(held["amount"] - held["captured"] - held["released"])


def _where(held: dict[str, Any]) -> str:
    return "held" if held["state"] == "HELD" else "committed"
