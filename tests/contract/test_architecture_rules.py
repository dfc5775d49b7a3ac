"""Each architecture rule can fail: faults are planted in small sources."""

from collections.abc import Mapping
from typing import Final

import pytest

from tests.contract.rules import RULES, Rule, floats, idioms, imports, layers, packages
from tests.contract.source import Source

STORE: Final = "services/x/store/__init__.py"
IMPORTS: Final = "from services.x.store import budgets\n"
CLEAN: Final[Mapping[str, str]] = {
    "kit/__init__.py": "",
    "kit/money.py": "from decimal import Decimal\nRATIO = Decimal('1.5')\n",
    "services/__init__.py": "",
    "services/x/__init__.py": "",
    "services/x/main.py": "from services.x import rpc\n",
    "services/x/clients.py": "from billing.y import y_pb2\n",
    "services/x/timers.py": "",
    "services/x/rpc/__init__.py": "from services.x.rpc import budgets\n",
    "services/x/rpc/budgets.py": (
        "from billing.x import x_pb2\nfrom services.x import convert, service\n"
        "async def Close():\n    return convert.budgets.to_proto(await service.budgets.close())\n"
    ),
    "services/x/service/__init__.py": "from services.x.service import budgets\n",
    "services/x/service/budgets.py": (
        "from services.x import events, store\nfrom services.x.clients import Clients\n"
        "async def close(clients: Clients, timeout_s: float = 0.5):\n"
        "    return events.published.closed(await store.budgets.lock())\n"
    ),
    "services/x/domain/__init__.py": "from services.x.domain import budgets\n",
    "services/x/domain/budgets.py": "from kit.money import RATIO\nfrom services.x.errors.budgets import NotFound\n",
    STORE: IMPORTS,
    "services/x/store/budgets.py": (
        "from sqlalchemy import select\nfrom services.x.models.budgets import BudgetRow\nasync def lock(): ...\n"
    ),
    "services/x/models/__init__.py": "from services.x.models import budgets\n",
    "services/x/models/budgets.py": "import sqlalchemy\nclass BudgetRow: ...\n",
    "services/x/convert/__init__.py": "from services.x.convert import budgets\n",
    "services/x/convert/budgets.py": (
        "from billing.x import x_pb2\nfrom services.x.models.budgets import BudgetRow\ndef to_proto(row): ...\n"
    ),
    "services/x/events/__init__.py": "from services.x.events import consumers, published\n",
    "services/x/events/published.py": "from billing.x import events_pb2\nfrom services.x import convert\n"
    "def closed(row):\n    return convert.budgets.to_proto(row)\n",
    "services/x/events/consumers.py": "from services.x import service\n",
    "services/x/errors/__init__.py": "",
    "services/x/errors/budgets.py": "class NotFound(Exception): ...\n",
    "services/x/migrations/versions/first.py": "from deploy import ddl\nimport sqlalchemy\n",
}
"""A service without a fault."""


def planted(**files: str) -> Source:
    """Make the clean source with lines appended to some files: `domain__budgets="RATIO = float(1)"`."""
    texts = dict(CLEAN)
    for name, text in files.items():
        file = f"services/x/{name.replace('__', '/')}.py"
        texts[file] = f"{texts.get(file, '')}{text}\n"
    return Source(texts)


def test_clean_source_breaks_no_rule() -> None:
    assert [violation for rule in RULES for violation in rule(planted())] == []


@pytest.mark.parametrize(
    ("rule", "name", "fault"),
    [
        (floats.no_float_in_money, "domain__budgets", "RATIO = float(1)"),
        (floats.no_float_in_money, "service__budgets", "half = amount * 0.5"),
        (floats.no_float_in_money, "store__budgets", "def spent(amount: float) -> None: ..."),
        (floats.no_float_in_money, "convert__budgets", "def to_text(row) -> float: ..."),
        (floats.no_float_in_money, "models__budgets", "amount = sqlalchemy.Float()"),
        (floats.no_float_in_money, "store__budgets", "SQL = 'select sum(amount)::float8 from budgets'"),
        (floats.no_float_in_money, "domain__budgets", "from math import sqrt"),
        (packages.packages_import_downwards, "domain__budgets", "from deploy import ddl"),
        (packages.nothing_imports_tests, "rpc__budgets", "import tests.harness"),
        (packages.services_are_independent, "service__budgets", "from services.y.service import holds"),
        (packages.imports_are_absolute, "service__budgets", "from . import holds"),
        (layers.layers_import_downwards, "store__budgets", "from services.x import service"),
        (layers.layers_import_downwards, "store__budgets", "from services.x.service.budgets import close"),
        (layers.layers_import_downwards, "convert__budgets", "from services.x import store"),
        (layers.layers_import_downwards, "convert__budgets", "from services.x.service.budgets import BudgetDraft"),
        (layers.layers_import_downwards, "service__budgets", "from services.x import convert"),
        (layers.layers_import_downwards, "service__budgets", "from services.x.rpc.budgets import Servicer"),
        (layers.layers_import_downwards, "service__budgets", "events.consumers.on_closed()"),
        (layers.layers_import_downwards, "domain__budgets", "from services.x.models.budgets import BudgetRow"),
        (layers.layers_import_downwards, "rpc__budgets", "from services.x.models.budgets import BudgetRow"),
        (layers.layers_import_downwards, "domain__budgets", "from kit import db"),
        (layers.layers_import_downwards, "service__budgets", "from contract.values import money_to_proto"),
        (layers.layers_import_downwards, "documents__pdf", "from services.x.domain.budgets import BudgetDraft"),
        (layers.layers_import_downwards, "documents__pdf", "from rendering.renderer import Renderer"),
        (packages.services_have_one_shape, "heard", ""),
        (layers.domain_is_pure, "domain__budgets", "import sqlalchemy"),
        (layers.domain_is_pure, "domain__budgets", "async def find(): ..."),
        (layers.domain_is_pure, "domain__budgets", "TODAY = date.today()"),
        (layers.convert_reads_no_clock, "convert__budgets", "now = clock.now()"),
        (layers.convert_reads_no_clock, "convert__budgets", "from kit.clock import now"),
        (layers.use_cases_do_not_reach_the_wire, "service__budgets", "from google.protobuf.message import Message"),
        (layers.use_cases_do_not_reach_the_wire, "service__budgets", "import grpc"),
        (layers.sql_is_in_the_store, "rpc__budgets", "from sqlalchemy import select"),
        (layers.sql_is_in_the_store, "service__budgets", "async def open(tx):\n    tx.add(row)"),
        (layers.messages_stay_at_the_edge, "store__budgets", "from billing.x import x_pb2"),
        (layers.clients_hide_messages, "clients", "def hold(request: y_pb2.HoldRequest) -> None: ..."),
        (packages.main_is_short, "main", "\n" * 40),
        (packages.files_are_short, "rpc__budgets", "\n" * 450),
        (imports.calls_show_their_layer, "rpc__budgets", "from services.x.service import budgets"),
        (imports.calls_show_their_layer, "rpc__budgets", "from services.x.service import budgets as use_cases"),
        (imports.calls_show_their_layer, "rpc__budgets", "from services.x import service as use_cases"),
        (imports.calls_show_their_layer, "service__holds", "from services.x.service.budgets import close"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)  # fmt: skip
def test_planted_fault_is_found(rule: Rule, name: str, fault: str) -> None:
    assert rule(planted(**{name: fault}))


EXAMPLES: Final[Mapping[str, str]] = {
    "the unit of a currency": "CENT = Decimal(1).scaleb(-2)",
    "an advisory lock": "LOCK = 'select pg_advisory_xact_lock($1)'",
    "an insert into the outbox": "INSERT = 'insert into budgets.outbox values ($1)'",
    "SQL of idempotency keys": "FIND = 'select reply from idempotency_keys'",
    "SQL of timers": "SET = 'insert into timers values ($1)'",
    "the column type of amounts": "amount = Numeric(20, 6)",
    "a dry run": "await tx.rollback()",
    "a date or nothing as text": "text = day.isoformat() if day else ''",
    "the time of the database": "now = await tx.scalar(select(func.now()))",
    "a time or None": "end = time_from_proto(request.end) if request.HasField('end') else None",
    "money or None": "amount = money_from_proto(request.amount) if request.HasField('amount') else None",
    "an enum or None": "state = State(Budget.State.Name(request.state)) if request.state else None",
    "None becomes NotFound": "if row is None:\n    raise BudgetNotFound(id)",
    "a bounded cache": "cache.popitem(last=False)",
    "a micro-batcher": "future = loop.create_future()",
    "the first id of a time": "def _id_at(moment): ...",
    "arithmetic of months and days": "def months_later(day, months): ...",
    "exchange rates and people": "class RateMissing(FailedPrecondition): ...",
    "a page of a list": "token = pages.encode_token(position)\n" * 3,
    "an object without its constructor": "error = kind.__new__(kind)",
}


@pytest.mark.parametrize("idiom", idioms.IDIOMS, ids=lambda idiom: idiom.name)
def test_copy_of_an_idiom_is_found(idiom: idioms.Idiom) -> None:
    source = planted(store__budgets="\n".join([EXAMPLES[idiom.name]] * (1 + idiom.allowed)))
    assert idiom.name in {violation.problem.split(":")[0] for violation in idioms.idioms_exist_once(source)}


def test_cycle_through_layer_packages_is_found() -> None:
    """Attributes of a package count as imports of its modules."""
    (violation,) = imports.no_import_cycle(
        planted(
            store__holds="from services.x import store\ndef find():\n    store.budgets.lock()",
            store__budgets="from services.x import store\ndef open():\n    store.holds.find()",
        )
    )
    assert violation.problem == "import cycle of services.x.store.budgets, services.x.store.holds"


def test_cycle_through_a_type_import_is_found() -> None:
    fault = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from services.x.service.budgets import Draft"
    assert imports.no_import_cycle(planted(store__budgets=fault))


def test_protobuf_through_convert_is_found() -> None:
    fault = "from services.x import convert\nconvert.budgets.to_proto(None)"
    (violation,) = layers.use_cases_do_not_reach_the_wire(planted(service__budgets=fault))
    assert violation.problem == "a use case reaches services.x.convert.budgets → billing.x.x_pb2"


def test_protobuf_through_several_modules_is_found() -> None:
    source = planted(
        service__budgets="from services.x.domain.holds import Hold",
        domain__holds="from services.x.convert.budgets import to_proto",
    )
    (violation,) = layers.use_cases_do_not_reach_the_wire(source)
    assert violation.problem.endswith("services.x.domain.holds → services.x.convert.budgets → billing.x.x_pb2")


def test_protobuf_in_the_store_is_reached_by_use_cases() -> None:
    source = planted(store__budgets="from google.protobuf.message import Message")
    (violation,) = layers.use_cases_do_not_reach_the_wire(source)
    assert violation.problem.endswith("services.x.store.budgets → google.protobuf.message.Message")


def test_modules_of_the_ledger_are_not_imported_from_outside() -> None:
    ledger = {
        "services/budgets/ledger/__init__.py": "from services.budgets.ledger.ledger import Ledger\n",
        "services/budgets/ledger/ledger.py": "from services.budgets.ledger import sql\nclass Ledger: ...\n",
        "services/budgets/ledger/sql.py": "",
    }
    entry_point = "from services.budgets.ledger import Ledger\n"
    assert not imports.ledger_has_one_entry_point(Source({**ledger, "services/budgets/main.py": entry_point}))
    for fault in ("from services.budgets.ledger import sql\n", "from services.budgets.ledger.sql import RECORD\n"):
        assert imports.ledger_has_one_entry_point(Source({**ledger, "services/budgets/timers.py": fault}))


def test_generic_packages_with_words_of_the_business_are_found() -> None:
    assert packages.generic_packages_name_no_business(Source({"gateway/app.py": "def budgetRoute(): ...\n"}))
    assert not packages.generic_packages_name_no_business(Source({"gateway/app.py": '"""A budget."""\n# charge\n'}))
