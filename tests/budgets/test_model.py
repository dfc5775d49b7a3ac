"""The service and a small model get the same random requests: all replies and balances must be equal."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import uuid4

import asyncpg
import grpc
import pytest
from billing.budgets.v1 import alert_service_pb2 as alert_pb
from billing.budgets.v1 import budget_service_pb2 as pb
from billing.budgets.v1 import charge_pb2
from billing.budgets.v1 import ledger_service_pb2 as ledger_pb
from billing.budgets.v1.alert_pb2 import Alert
from billing.budgets.v1.budget_pb2 import Budget
from billing.budgets.v1.entry_pb2 import Entry
from billing.budgets.v1.hold_pb2 import Hold
from billing.budgets.v1.rollover_pb2 import Transfer
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from kit import ids
from tests.budgets.budgets_api import BudgetsApi
from tests.budgets.model import OPEN, Result, Tree
from tests.budgets.model_inputs import (
    AMOUNTS,
    CARRIED_FORWARD,
    EXPIRIES_MAX,
    LINES,
    NAMES,
    PARTS,
    SHARED,
    TREE,
    cents,
    money,
)
from tests.harness.callers import Caller, Refusal
from tests.harness.observe import eventually
from tests.harness.services import Budgets, Entities
from tests.harness.tokens import Keys

T = TypeVar("T")


@dataclass(slots=True)
class World:
    """The services and fixtures that all machines use."""

    loop: asyncio.AbstractEventLoop
    keys: Keys
    budgets: Budgets
    entities: Entities
    admin: "asyncpg.Pool[asyncpg.Record]"

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def api(self) -> BudgetsApi:
        """Return the API as a caller of a new tenant."""
        tenant = uuid4()
        return BudgetsApi(Caller(tenant, "alice", self.keys.token(tenant)), self.budgets, self.entities)


class Machine(RuleBasedStateMachine):
    """Sends each request to the service and the model, and maps the names of the model to ids of the service."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.world = world
        self.tree = Tree()
        self.api = world.api()
        self.id_of: dict[str, str] = {}
        self.name_of: dict[str, str] = {}
        self.requests: list[tuple[str, str, dict[str, Any]]] = []
        self.replies: dict[tuple[str, str], bytes] = {}
        self.key_count = 0
        self.expiries = 0

    @initialize()
    def open_the_tree(self) -> None:
        for name, amount, policy, parent, tolerance_bp, rollover in TREE:
            fields, carried_part = CARRIED_FORWARD[rollover]
            opened = self.world.run(
                self.api.open(
                    name=name, amount=money(amount), overspend_policy=Budget.OverspendPolicy.Value(policy),
                    parent_id=self.id_of.get(parent, ""), tolerance_bp=tolerance_bp, **fields,
                )
            )  # fmt: skip
            self.tree.open(name, amount, policy, parent=parent, tolerance_bp=tolerance_bp, carried_part=carried_part)
            self._name(name, opened.id)
        # Holds, a capture and a charge exist from the start, so that no run depends on drawing them first.
        for _ in range(2):
            self.hold("north", 40_00)
        self._request("capture", self._key(), hold=min(self.tree.holds), amount=15_00, release_rest=False)
        self.charge("south", 20_00, None)

    @rule(budget=st.sampled_from(NAMES), amount=AMOUNTS, shared=SHARED)
    def charge(self, budget: str, amount: int, shared: int | None) -> None:
        self._request("charge", self._key(shared), budget=budget, amount=amount)

    @rule(lines=LINES, atomic=st.booleans())
    def batch(self, lines: list[tuple[str, int, int | None]], atomic: bool) -> None:  # noqa: FBT001 - drawn
        charges = [(self._key(shared), {"budget": budget, "amount": amount}) for budget, amount, shared in lines]
        expected = self.tree.batch(charges, atomic=atomic)
        request = ledger_pb.BatchChargeRequest(
            charges=[self._message("charge", *charge) for charge in charges], atomic=atomic
        )
        reply = self._reply(self.api.stubs.ledger.BatchCharge, request)
        if isinstance(reply, Refusal):
            index = int(reply.metadata["line"].removeprefix("charges[").removesuffix("]"))
            result = {"refused": reply.reason, "line": index, "line_reason": reply.metadata["line_reason"]}
            assert result == expected
            return
        assert isinstance(expected, list)
        assert reply.accepted_count == sum("refused" not in result for result in expected)
        for (key, _), expected_result, charged in zip(charges, expected, reply.results, strict=True):
            known = ("charge", key) in self.replies
            if charged.HasField("charge"):
                self._check_reply("charge", key, expected_result, charged.charge)
                assert charged.replayed == known
            else:
                assert self._refusal(charged.refusal.reason, charged.refusal.metadata) == expected_result

    @rule(budget=st.sampled_from(NAMES), amount=AMOUNTS)
    def hold(self, budget: str, amount: int) -> None:
        self._request("hold", self._key(), budget=budget, amount=amount)

    @precondition(lambda self: self.tree.holds)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        self._request("commit", self._key(), hold=self._draw_hold(data))

    @precondition(lambda self: self.tree.holds)
    @rule(data=st.data(), amount=PARTS, release_rest=st.booleans())
    def capture(self, data: st.DataObject, amount: int | None, release_rest: bool) -> None:  # noqa: FBT001
        self._request("capture", self._key(), hold=self._draw_hold(data), amount=amount, release_rest=release_rest)

    @precondition(lambda self: self.tree.holds)
    @rule(data=st.data(), amount=PARTS)
    def release(self, data: st.DataObject, amount: int | None) -> None:
        self._request("release", self._key(), hold=self._draw_hold(data), amount=amount)

    @precondition(lambda self: self.tree.charges)
    @rule(data=st.data(), amount=PARTS, captured=st.booleans())
    def refund(self, data: st.DataObject, amount: int | None, captured: bool) -> None:  # noqa: FBT001
        names = sorted(name for name, charge in self.tree.charges.items() if charge["captured"] == captured)
        charge = data.draw(st.sampled_from(names or sorted(self.tree.charges)))
        self._request("refund", self._key(), charge=charge, amount=amount)

    @rule(budget=st.sampled_from(NAMES), amount=AMOUNTS, more=st.sampled_from([0, 200_00]))
    def adjust(self, budget: str, amount: int, more: int) -> None:
        self._request("adjust", self._key(), budget=budget, amount=amount + more)

    @rule(budgets=st.permutations(NAMES), amount=AMOUNTS)
    def transfer(self, budgets: list[str], amount: int) -> None:
        self._request("transfer", self._key(), source=budgets[0], target=budgets[1], amount=amount)

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Repeat a request: an accepted one returns the same bytes without effect, a refused one is decided again."""
        method, key, given = data.draw(st.sampled_from(self.requests))
        self._request(method, key, **given)

    @precondition(lambda self: self.expiries < EXPIRIES_MAX and self._expirable_holds())
    @rule(data=st.data())
    def let_expiry_pass(self, data: st.DataObject) -> None:
        """Set the expiry of a hold to now; its timer has not fired yet."""
        hold = data.draw(st.sampled_from(self._expirable_holds()))
        self.expiries += 1
        self.tree.holds[hold]["due"] = True
        self._in_the_database("update budgets.budget_holds set expire_time = now() where id = $1", hold)

    @precondition(lambda self: self._due_holds())
    @rule(data=st.data())
    def expire(self, data: st.DataObject) -> None:
        """Let the timer of an expired hold fire, and wait until it has released the hold."""
        hold = data.draw(st.sampled_from(self._due_holds()))
        self._in_the_database("update budgets.timers set due_time = now() where resource_id = $1", hold)
        self.tree.expire(hold)
        request = ledger_pb.GetHoldRequest(id=self.id_of[self.tree.holds[hold]["budget"]], hold_id=self.id_of[hold])

        async def expired() -> bool:
            return (await self.api.who.call(self.api.stubs.ledger.GetHold, request)).state == Hold.EXPIRED

        self.world.run(eventually(expired))

    def teardown(self) -> None:
        if self.id_of:
            self.world.run(self._compare())
            self.world.run(self._roll_over())
            self._use_both_periods()
            self.world.run(self._compare_balances())

    async def _roll_over(self) -> None:
        """Roll the whole tree over to its next period with its holds; repeating the request has no effect."""
        who, stubs = self.api.who, self.api.stubs
        holds = sum(held["state"] in OPEN for held in self.tree.holds.values())
        request = pb.RolloverBudgetRequest(id=self.id_of["group"], early=True, request_id="next")
        reply = await who.call(stubs.budgets.RolloverBudget, request)
        assert (reply.opened_budget_count, reply.moved_hold_count) == (len(NAMES), holds)
        assert await who.call(stubs.budgets.RolloverBudget, request) == reply
        listed = await who.call(stubs.budgets.ListBudgets, pb.ListBudgetsRequest(state=Budget.ACTIVE, page_size=1000))
        for name, new in self.tree.roll_over().items():
            (opened,) = (budget for budget in listed.budgets if budget.name == name)
            self._name(new, opened.id)
        await self._compare_balances()

    def _use_both_periods(self) -> None:
        """Commit and release moved holds on their new budgets, and refund charges on their old budgets.

        Then post late charges and refunds to the first period, between postings of the second period.
        """
        for number, hold in enumerate(sorted(self.tree.holds)):
            if number % 2:
                self._request("commit", self._key(), hold=hold)
            else:
                self._request("release", self._key(), hold=hold, amount=None)
        for charge in sorted(self.tree.charges)[:3]:
            self._request("refund", self._key(), charge=charge, amount=None)
        rng = random.Random(len(self.requests))  # noqa: S311 - no secret depends on it
        for _ in range(25):
            if rng.random() < 0.3:
                charge, amount = rng.choice(sorted(self.tree.charges)), rng.choice([None, 1, 5_00, 40_00])
                self._request("refund", self._key(), charge=charge, amount=amount)
                continue
            name, amount = rng.choice(NAMES), rng.choice([1, 5_00, 33_33, 99_99])
            next_budget = self.tree.next_budgets[name]
            if rng.random() < 0.2:
                target = rng.choice([other for other in self.tree.next_budgets.values() if other != next_budget])
                self._request("transfer", self._key(), source=next_budget, target=target, amount=amount)
            else:
                budget = rng.choice([name, name, next_budget])
                self._request("charge", self._key(), budget=budget, amount=amount)

    async def _compare_balances(self) -> None:
        """Compare the balances of all budgets of both periods, and verify their ledgers."""
        who, stubs = self.api.who, self.api.stubs
        for name, expected in self.tree.budgets.items():
            budget = await who.call(stubs.budgets.GetBudget, pb.GetBudgetRequest(id=self.id_of[name]))
            balance = {field: cents(getattr(budget, field).amount) for field in (*_NUMBERS, "carried")}
            if name in self.tree.next_budgets:
                assert cents(budget.carried_forward.amount) == expected["carried_forward"]
            assert balance == {**{field: expected[field] for field in balance if field != "available"},
                               "available": self.tree.available(name)}, name  # fmt: skip
            assert (
                await who.call(stubs.ledger.VerifyBudget, ledger_pb.VerifyBudgetRequest(id=self.id_of[name]))
            ).verified

    async def _compare(self) -> None:
        """Compare balances, ledgers, holds and alerts."""
        who, stubs = self.api.who, self.api.stubs
        for name in NAMES:
            id = self.id_of[name]
            budget = await who.call(stubs.budgets.GetBudget, pb.GetBudgetRequest(id=id))
            balance = {field: cents(getattr(budget, field).amount) for field in _NUMBERS}
            expected = {field: self.tree.budgets[name][field] for field in balance if field != "available"}
            assert balance == {**expected, "available": self.tree.available(name)}
            verified = await who.call(stubs.ledger.VerifyBudget, ledger_pb.VerifyBudgetRequest(id=id))
            assert (verified.verified, verified.entry_count) == (True, self.tree.budgets[name]["version"])
            assert cents(verified.open_holds.amount) == balance["held"] + balance["committed"]
            ledger = await who.call(stubs.ledger.ListEntries, ledger_pb.ListEntriesRequest(id=id, page_size=1000))
            assert [self._entry(entry) for entry in reversed(ledger.entries)] == list(self._entries(name))
            alerts = await who.call(
                stubs.alerts.ListAlerts, alert_pb.ListAlertsRequest(id=id, state=Alert.OPEN, page_size=1000)
            )
            raised = [(Alert.Type.Name(alert.alert_type), alert.threshold_bp) for alert in alerts.alerts]
            assert sorted(raised) == sorted(self.tree.open_alerts(name))
        for hold in self.tree.holds:
            request = ledger_pb.GetHoldRequest(id=self.id_of[self.tree.holds[hold]["budget"]], hold_id=self.id_of[hold])
            assert self._hold(await who.call(stubs.ledger.GetHold, request)) == self.tree.hold_result(hold)

    def _entries(self, name: str) -> Iterable[tuple[Any, ...]]:
        for entry in self.tree.entries:
            if name in entry["after"]:
                kind, budget, key, amount = (entry[field] for field in ("kind", "budget", "key", "amount"))
                yield kind, budget, key, amount, *entry["after"][name].values()

    def _entry(self, entry: Entry) -> tuple[Any, ...]:
        after = (entry.budget_amount_after, entry.spent_after, entry.held_after, entry.committed_after)
        numbers = [cents(money.amount) for money in after]
        kind, budget = Entry.Type.Name(entry.entry_type), self.name_of[entry.budget_id]
        return kind, budget, entry.request_id, cents(entry.amount.amount), entry.ledger_version, *numbers

    def _request(self, method: str, key: str, **given: Any) -> None:
        """Send a request to the service and the model, and compare the results."""
        self.requests.append((method, key, given))
        service, name = _RPCS[method]
        rpc = getattr(getattr(self.api.stubs, service), name)
        reply = self._reply(rpc, self._message(method, key, given))
        expected = self.tree.apply(method, key, **given)
        if isinstance(reply, Refusal):
            assert self._refusal(reply.reason, reply.metadata) == expected
        else:
            self._check_reply(method, key, expected, reply)

    def _reply(self, rpc: Any, request: Message) -> Any:
        try:
            return self.world.run(self.api.who.call(rpc, request))
        except grpc.aio.AioRpcError as error:
            return Refusal.of(error)

    def _check_reply(self, method: str, key: str, expected: Result, reply: Any) -> None:
        """Check that the reply agrees with the model and is the same each time."""
        assert "refused" not in expected, f"accepted, but the model returned {expected}"
        sent = reply.SerializeToString(deterministic=True)
        assert self.replies.setdefault((method, key), sent) == sent
        self._name_created(method, expected, reply)
        assert self._result(method, reply) == expected

    def _name_created(self, method: str, expected: Result, reply: Any) -> None:
        """Map the name of the new hold or entry to its id."""
        if method == "hold":
            self._name(expected["hold"], reply.id)
        elif method == "capture":
            self._name(expected["entry"], reply.last_entry_id)
        elif method != "adjust" and "entry" in expected:
            self._name(expected["entry"], reply.id)

    def _result(self, method: str, reply: Any) -> Result:
        """Return a reply in the form of the model."""
        if isinstance(reply, Hold):
            entry = {"entry": self.name_of[reply.last_entry_id]} if method == "capture" else {}
            return {**self._hold(reply), **entry}
        if isinstance(reply, Budget):
            return {"amount": cents(reply.amount.amount), "available": cents(reply.available.amount)}
        if isinstance(reply, Transfer):
            source, target = cents(reply.source.available.amount), cents(reply.target.available.amount)
            return {"amount": cents(reply.amount.amount), "source_available": source, "target_available": target}
        chain = [
            (self.name_of[link.budget_id], cents(link.available_before.amount), cents(link.available_after.amount))
            for link in reply.chain
        ]
        overspent = any(link.overspent for link in reply.chain)
        result = {"entry": self.name_of[reply.id], "amount": cents(reply.amount.amount), "chain": chain}
        if isinstance(reply, charge_pb2.Refund):
            return {**result, "overspent": overspent, "refundable": cents(reply.refundable.amount)}
        assert overspent == (reply.verdict == charge_pb2.Charge.ACCEPTED_OVERSPENT)
        return {**result, "overspent": overspent}

    def _hold(self, hold: Hold) -> Result:
        numbers = {name: cents(getattr(hold, name).amount) for name in ("amount", "captured", "released", "open")}
        state = Hold.State.Name(hold.state)
        return {"hold": self.name_of[hold.id], "budget": self.name_of[hold.budget_id], **numbers, "state": state}

    def _refusal(self, reason: str, metadata: Any) -> Result:
        """Return a refusal in the form of the model, with the numbers in its metadata."""
        fields = _FIELDS_OF_REFUSALS.get(reason, ())
        parsers: dict[str, Callable[[str], Any]] = {"state": str, "budget_id": self.name_of.__getitem__}
        values = {name.removesuffix("_id"): parsers.get(name, cents)(metadata[name]) for name in fields}
        if reason == "AMOUNT_BELOW_SPENT":
            values["requested"] = values.pop("amount")
        return {"refused": reason, **values}

    def _message(self, method: str, key: str, given: dict[str, Any]) -> Any:
        """Return the request message of the service."""
        amount = given.get("amount")
        fields: dict[str, Any] = {"request_id": key} | ({} if amount is None else {"amount": money(amount)})
        if "hold" in given:
            held = self.tree.holds[given["hold"]]
            fields |= {"id": self.id_of[held["budget"]], "hold_id": self.id_of[given["hold"]]}
        elif "charge" in given:
            charge = self.tree.charges[given["charge"]]
            fields |= {"id": self.id_of[charge["budget"]], "charge_id": self.id_of[given["charge"]]}
        elif "source" in given:
            fields |= {"id": self.id_of[given["source"]], "to_budget_id": self.id_of[given["target"]]}
        else:
            fields["id"] = self.id_of[given["budget"]]
        if method == "hold":
            fields["expire_time"] = _FAR
        if given.get("budget") in self.tree.next_budgets.values():
            fields["charge_time"] = _NEXT_YEAR
        if method == "capture":
            fields["release_rest"] = given["release_rest"]
        return _REQUESTS[method](**fields)

    def _key(self, shared: int | None = None) -> str:
        self.key_count += 1
        return f"shared-{shared}" if shared is not None else f"key-{self.key_count}"

    def _name(self, name: str, id: str) -> None:
        assert self.id_of.setdefault(name, id) == id
        self.name_of[id] = name

    def _draw_hold(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.tree.holds)))

    def _expirable_holds(self) -> list[str]:
        return [hold for hold, held in self.tree.holds.items() if held["state"] == "HELD" and not held["due"]]

    def _due_holds(self) -> list[str]:
        return [hold for hold, held in self.tree.holds.items() if held["state"] == "HELD" and held["due"]]

    def _in_the_database(self, statement: str, hold: str) -> None:
        self.world.run(self.world.admin.execute(statement, ids.HOLD.parse(self.id_of[hold])))


_NUMBERS = ("amount", "spent", "held", "committed", "captured", "available")
_FIELDS_OF_REFUSALS = {
    "BUDGET_EXCEEDED": ("budget_id", "requested", "available"),
    "APPROVAL_REQUIRED": ("budget_id", "requested", "available"),
    "HOLD_EXCEEDED": ("requested", "available"),
    "REFUND_EXCEEDS_CHARGE": ("requested", "available"),
    "AMOUNT_BELOW_SPENT": ("amount", "spent"),
    "TRANSFER_EXCEEDS_BUDGET": ("requested", "transferable", "used"),
    "HOLD_STATE": ("state",),
}
_RPCS = {
    "charge": ("ledger", "Charge"), "hold": ("ledger", "CreateHold"), "commit": ("ledger", "CommitHold"),
    "capture": ("ledger", "CaptureHold"), "release": ("ledger", "ReleaseHold"), "refund": ("ledger", "RefundCharge"),
    "adjust": ("budgets", "UpdateBudget"), "transfer": ("budgets", "TransferBudget"),
}  # fmt: skip
_MODULES = {"budgets": pb, "ledger": ledger_pb}
_REQUESTS: dict[str, Callable[..., Message]] = {
    method: getattr(_MODULES[service], f"{name}Request") for method, (service, name) in _RPCS.items()
}
_NEXT_YEAR = Timestamp(seconds=int(datetime(datetime.now(UTC).year + 1, 6, 1, tzinfo=UTC).timestamp()))
_FAR = Timestamp(seconds=int((datetime.now(UTC) + timedelta(days=30)).timestamp()))


@pytest.fixture(scope="session")
async def loop() -> asyncio.AbstractEventLoop:
    """The event loop of the services of this worker."""
    return asyncio.get_running_loop()


def test_the_service_agrees_with_the_model(
    loop: asyncio.AbstractEventLoop,
    keys: Keys,
    budgets: Budgets,
    entities: Entities,
    admin: "asyncpg.Pool[asyncpg.Record]",
) -> None:
    world = World(loop, keys, budgets, entities, admin)
    # Failing examples are not shrunk, which would take minutes.
    bounded = settings(
        max_examples=8, stateful_step_count=50, derandomize=True, deadline=None, database=None, phases=[Phase.generate]
    )
    run_state_machine_as_test(lambda: Machine(world), settings=bounded)  # type: ignore[arg-type]  # any factory will do
