"""A small model of a tree of budgets, to check the service against: whole cents, plain dicts, one request at a time.

It is written from the protos and shares no code with the service. Budgets, holds and charges have names here instead
of ids. `apply` returns what a caller can see: the numbers of an accepted request, or `refused` with the reason and its
numbers.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any, Final

Result = dict[str, Any]

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
        self.result: Result = {"refused": reason, **numbers}


class Tree:
    """A tree of budgets with their whole history."""

    def __init__(self) -> None:
        self.budgets: dict[str, dict[str, Any]] = {}
        self.holds: dict[str, dict[str, Any]] = {}
        self.charges: dict[str, dict[str, Any]] = {}
        """Charges and captures, by the name of their entry."""
        self.next_budgets: dict[str, str] = {}
        """The budget of the next period of each budget that was rolled over."""
        self.entries: list[dict[str, Any]] = []
        self.results: dict[tuple[str, str], tuple[Any, Result]] = {}
        """The input and the result of each accepted request, by method and key."""

    def open(
        self, name: str, amount: int, policy: str = BLOCK, *, parent: str = "", tolerance_bp: int = 0,
        carried_part: Callable[[int], int] = lambda _: 0,
    ) -> None:  # fmt: skip
        """Create a budget, at the top or below another; `carried_part` returns how much is carried forward."""
        self.budgets[name] = {
            "parent": parent, "amount": amount, "policy": policy, "tolerance_bp": tolerance_bp,
            "carried_part": carried_part, "carried": 0, "spent": 0, "held": 0, "committed": 0, "captured": 0,
            "version": 0,
        }  # fmt: skip

    def chain(self, name: str) -> list[str]:
        """Return the budget and all above it."""
        return [name, *self.chain(self.budgets[name]["parent"])] if name else []

    def used(self, name: str) -> int:
        """Return what is spent, held or committed."""
        budget = self.budgets[name]
        return int(budget["spent"] + budget["held"] + budget["committed"])

    def available(self, name: str) -> int:
        """Return what is left."""
        budget = self.budgets[name]
        return int(budget["amount"] + budget["carried"]) - self.used(name)

    def limit(self, name: str) -> int | None:
        """Return the most that may be used; None if there is no limit."""
        budget = self.budgets[name]
        if budget["policy"] == WARN:
            return None
        tolerance = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return int(budget["amount"] + budget["carried"]) * (10_000 + int(tolerance)) // 10_000

    def open_alerts(self, name: str) -> set[tuple[str, int]]:
        """Return type and threshold of each alert that must be open."""
        used, amount = self.used(name), self.budgets[name]["amount"]
        passed = {("THRESHOLD", bp) for bp in THRESHOLDS_BP if used > 0 and used * 10_000 >= amount * bp}
        return passed | {("OVERSPEND", 10_000)} if used > amount else passed

    def apply(self, method: str, key: str, **given: Any) -> Result:
        """Return the result of a request; for a key that was accepted before, the first result."""
        known = self.results.get((method, key))
        if known:
            return known[1] if known[0] == given else {"refused": "IDEMPOTENCY_MISMATCH"}
        operation: Callable[..., Result] = getattr(self, method)
        try:
            result = operation(key, **given)
        except Refused as refused:
            return refused.result
        if key:
            self.results[method, key] = given, result
        return result

    def batch(self, lines: Sequence[tuple[str, dict[str, Any]]], *, atomic: bool) -> Result | list[Result]:
        """Return the result of each charge, a key and its input; or one result if an atomic batch is refused."""
        before = copy.deepcopy(self.__dict__)
        results = [self.apply("charge", key, **given) for key, given in lines]
        refused = [index for index, result in enumerate(results) if "refused" in result]
        if not (atomic and refused):
            return results
        self.__dict__.update(before)
        first = refused[0]
        return {"refused": "BATCH_REFUSED", "line": first, "line_reason": results[first]["refused"]}

    def charge(self, key: str, *, budget: str, amount: int) -> Result:
        """Charge a budget."""
        result = self._move("CHARGE", key, budget, amount, spent=amount)
        self.charges[result["entry"]] = {"budget": budget, "amount": amount, "refunded": 0, "captured": False}
        return result

    def hold(self, key: str, *, budget: str, amount: int) -> Result:
        """Create a hold, named after its entry."""
        moved = self._move("HOLD", key, budget, amount, held=amount)
        self.holds[moved["entry"]] = {
            "budget": budget, "amount": amount, "captured": 0, "released": 0, "state": "HELD", "due": False,
        }  # fmt: skip
        return self.hold_result(moved["entry"])

    def commit(self, key: str, *, hold: str) -> Result:
        """Commit a hold."""
        held = self._hold_in(hold, "HELD")
        self._not_due(held)
        left = _left(held)
        self._move("COMMIT", key, held["budget"], left, held=-left, committed=left)
        held["state"] = "COMMITTED"
        return self.hold_result(hold)

    def capture(self, key: str, *, hold: str, amount: int | None, release_rest: bool) -> Result:
        """Spend a part of a hold."""
        held = self._hold_in(hold, *OPEN)
        self._not_due(held)
        spent = self._part(held, amount)
        released = _left(held) - spent if release_rest else 0
        reserved = {_number_of(held): -spent - released}
        moved = self._move("CAPTURE", key, held["budget"], spent, spent=spent, captured=spent, **reserved)
        held["captured"] += spent
        held["released"] += released
        if not _left(held):
            held["state"] = "CAPTURED"
        capture = {"budget": held["budget"], "amount": spent, "refunded": 0, "captured": True}
        self.charges[moved["entry"]] = capture
        return {**self.hold_result(hold), "entry": moved["entry"]}

    def release(self, key: str, *, hold: str, amount: int | None) -> Result:
        """Release a part of a hold."""
        held = self._hold_in(hold, *OPEN)
        released = self._part(held, amount)
        self._move("RELEASE", key, held["budget"], released, **{_number_of(held): -released})
        held["released"] += released
        if not _left(held):
            held["state"] = "CAPTURED" if held["captured"] else "RELEASED"
        return self.hold_result(hold)

    def expire(self, hold: str) -> None:
        """Release an expired hold, like its timer does."""
        held = self._hold_in(hold, "HELD")
        released = _left(held)
        self._move("EXPIRE", "", held["budget"], released, held=-released)
        held["released"] += released
        held["state"] = "EXPIRED"

    def refund(self, key: str, *, charge: str, amount: int | None) -> Result:
        """Refund a part of a charge or capture."""
        charged = self.charges[charge]
        left = charged["amount"] - charged["refunded"]
        refunded = left if amount is None else amount
        if refunded > left or not refunded:
            raise Refused("REFUND_EXCEEDS_CHARGE", requested=refunded, available=left)
        captured = -refunded if charged["captured"] else 0
        moved = self._move("REFUND", key, charged["budget"], refunded, spent=-refunded, captured=captured)
        charged["refunded"] += refunded
        return {**moved, "refundable": left - refunded}

    def adjust(self, key: str, *, budget: str, amount: int) -> Result:
        """Change the amount of a budget."""
        if amount < self.budgets[budget]["amount"] and amount < self.used(budget):
            raise Refused("AMOUNT_BELOW_SPENT", requested=amount, spent=self.used(budget))
        change = amount - self.budgets[budget]["amount"]
        self.budgets[budget]["amount"] = amount
        self._record("ADJUST", key, budget, change, [budget])
        return {"amount": amount, "available": self.available(budget)}

    def transfer(self, key: str, *, source: str, target: str, amount: int) -> Result:
        """Transfer amount to another budget; the rest is above zero and what the policy requires for what is used."""
        budget = self.budgets[source]
        most = max(0, min(budget["amount"] - 1, budget["amount"] + budget["carried"] - self.least_amount(source)))
        if amount > most:
            raise Refused("TRANSFER_EXCEEDS_BUDGET", requested=amount, transferable=most, used=self.used(source))
        self.budgets[source]["amount"] -= amount
        self._record("TRANSFER_OUT", key, source, amount, [source])
        self.budgets[target]["amount"] += amount
        self._record("TRANSFER_IN", key, target, amount, [target])
        return {
            "amount": amount,
            "source_available": self.available(source),
            "target_available": self.available(target),
        }

    def least_amount(self, name: str) -> int:
        """Return the smallest amount with which the policy allows what is used."""
        budget = self.budgets[name]
        tolerance = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return 0 if budget["policy"] == WARN else -(-self.used(name) * 10_000 // (10_000 + int(tolerance)))

    def roll_over(self) -> dict[str, str]:
        """Open the next period of all budgets, and move open holds and carried amounts; return the new names."""
        opened = {name: f"{name}'" for name in self.budgets}
        moving = {name: {"held": 0, "committed": 0} for name in opened}
        for held in (held for held in self.holds.values() if held["state"] in OPEN):
            for above in self.chain(held["budget"]):
                moving[above][_number_of(held)] += _left(held)
            held["budget"] = opened[held["budget"]]
        for name, new in opened.items():
            old, reserved = self.budgets[name], moving[name]
            for number in reserved:
                old[number] -= reserved[number]
            carried = self._carried(name, self.available(name), sum(reserved.values()), old["amount"])
            old["carried"] -= carried
            old |= {
                "carried_forward": carried, "moved_reserved": sum(reserved.values()), "next_amount": old["amount"],
            }  # fmt: skip
            self.budgets[new] = {
                **old, **reserved, "parent": opened.get(old["parent"], ""), "carried": carried, "spent": 0,
                "captured": 0,
            }  # fmt: skip
        self.next_budgets |= opened
        return opened

    def _carried(self, name: str, rest: int, reserved: int, amount: int) -> int:
        """Return the carried amount: at least what moved holds exceed the new amount by, if left or required."""
        budget = self.budgets[name]
        carried: int = budget["carried_part"](rest)
        if not reserved:
            return carried
        carried = max(carried, min(rest, reserved - amount))
        if budget["policy"] in {WARN, APPROVAL}:
            return carried
        tolerance: int = budget["tolerance_bp"] if budget["policy"] == TOLERANCE else 0
        return max(carried, -(-reserved * 10_000 // (10_000 + tolerance)) - amount)

    def hold_result(self, hold: str) -> Result:
        """Return the hold as callers see it."""
        held = self.holds[hold]
        fields = {name: held[name] for name in ("budget", "amount", "captured", "released", "state")}
        return {"hold": hold, **fields, "open": _left(held)}

    def _hold_in(self, hold: str, *states: str) -> dict[str, Any]:
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
        part = _left(held) if amount is None else amount
        if part > _left(held):
            raise Refused("HOLD_EXCEEDED", requested=part, available=_left(held))
        return part

    def _move(self, kind: str, key: str, name: str, amount: int, **changes: int) -> Result:
        """Change the budget and all above it, or refuse that if one of them has too little room."""
        increase = sum(changes.get(number, 0) for number in ("spent", "held", "committed"))
        before = {above: self.available(above) for above in self.chain(name)}
        budgets = copy.deepcopy(self.budgets)
        for above in self.chain(name):
            for number, change in changes.items():
                self.budgets[above][number] += change
        reductions = self._correct_carried(self.chain(name))
        try:
            if increase > 0:
                self._check_room(self.chain(name), increase)
            for new, reduction in reductions.items():
                self._check_room([new], reduction)
        except Refused:
            self.budgets = budgets
            raise
        entry = self._record(kind, key, name, amount, self.chain(name))
        chain = [(above, before[above], self.available(above)) for above in self.chain(name)]
        return {"entry": entry, "amount": amount, "chain": chain, "overspent": any(after < 0 for *_, after in chain)}

    def _correct_carried(self, chain: list[str]) -> dict[str, int]:
        """Correct what rolled-over budgets carried forward; return by how much it was reduced for the next budgets."""
        reductions = {}
        for name in (name for name in chain if name in self.next_budgets):
            old, new = self.budgets[name], self.budgets[self.next_budgets[name]]
            rest = self.available(name) + old["carried_forward"]
            carried = self._carried(name, rest, old["moved_reserved"], old["next_amount"])
            change = carried - old["carried_forward"]
            old["carried"] -= change
            old["carried_forward"] += change
            new["carried"] += change
            if change < 0:
                reductions[self.next_budgets[name]] = -change
        return reductions

    def _check_room(self, names: list[str], increase: int) -> None:
        """Refuse the increase, which the budgets already include, if one of them is above its limit."""
        rooms = []
        for above in names:
            limit = self.limit(above)
            if limit is not None and self.used(above) > max(limit, 0):
                rooms.append((limit - self.used(above) + increase, above))
        hard = [room for room in rooms if self.budgets[room[1]]["policy"] != APPROVAL]
        if rooms:
            # The least room; of several the lowest budget.
            room, binding = min(hard or rooms, key=lambda candidate: candidate[0])
            reason = "BUDGET_EXCEEDED" if hard else "APPROVAL_REQUIRED"
            raise Refused(reason, budget=binding, requested=increase, available=room)

    def _record(self, kind: str, key: str, name: str, amount: int, changed: list[str]) -> str:
        entry = f"e{len(self.entries)}"
        after = {}
        for above in changed:
            budget = self.budgets[above]
            budget["version"] += 1
            after[above] = {number: budget[number] for number in ("version", "amount", "spent", "held", "committed")}
        self.entries.append({"id": entry, "kind": kind, "key": key, "budget": name, "amount": amount, "after": after})
        return entry


def _left(held: dict[str, Any]) -> int:
    return int(held["amount"] - held["captured"] - held["released"])


def _number_of(held: dict[str, Any]) -> str:
    """Return the number of the budget that the hold is counted in."""
    return "held" if held["state"] == "HELD" else "committed"
