"""Invoices with unusual amounts, many lines, concurrent callers and callers who may not see them."""

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import pytest
from billing.entities.v1 import invoice_service_pb2 as pb
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from grpc import StatusCode, aio

from services.entities import service
from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.contract_api import ContractApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi, amounts, totals
from tests.harness.callers import Caller, Refusal, refusal
from tests.harness.services import Entities

OCTOBER = ("2026-10-01", "2026-11-01")
LARGEST = "9999999999999.99"


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    await profiles.create("Shared Services")
    return await api.create_entity("HOLD", tax_rate_bp=1900)


@pytest.fixture
async def it(api: EntitiesApi, holding: Entity) -> Department:
    return await api.create_department(holding, "IT")


async def outcomes(*calls: Awaitable[Invoice]) -> tuple[list[Invoice], set[str]]:
    """Await all at once; return the invoices, and the reasons of the refused calls."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    done = [each for each in results if isinstance(each, Invoice)]
    return done, {Refusal.of(each).reason for each in results if isinstance(each, aio.AioRpcError)}


class TestAmounts:
    @pytest.mark.parametrize(
        ("count", "amount", "currency"),
        [
            (2, f"{LARGEST} EUR", "EUR"),
            (11, f"{LARGEST} EUR", "EUR"),  # doesn't fit into the column either
            (1, f"{LARGEST} EUR", "EUR"),  # with its tax
            (1, f"{LARGEST} EUR", "IDR"),
            (2, f"{LARGEST} IDR", "EUR"),  # only the original amount
        ],
    )
    async def test_amounts_with_too_many_digits_are_refused(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department,
        count: int, amount: str, currency: str,
    ) -> None:  # fmt: skip
        await api.set_rates("2026-10-01 EUR/IDR 17000")
        for _ in range(count):
            await costs.allocate(it, amount, allocation_date="2026-10-05")
        for dry_run in (False, True):
            refused = await refusal(
                invoices.create(holding, *OCTOBER, currency_code=currency, validate_only=dry_run)
            )  # fmt: skip
            assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "INVOICE_AMOUNT_TOO_LARGE")
            assert refused.metadata == {"digits_max": "13"}

    async def test_a_cent_and_its_credit_are_invoices(
        self, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        cent = await costs.allocate(it, "0.01 EUR", allocation_date="2026-10-05")
        assert totals(await invoices.issue(await invoices.create(holding, *OCTOBER))) == ("0.01", "0.00", "0.01")
        await costs.reverse(cent, allocation_date="2026-11-02")
        negative = await invoices.issue(await invoices.create(holding, "2026-11-01", "2026-12-01"))
        assert totals(negative) == ("-0.01", "0.00", "-0.01")
        assert (negative.open.amount, negative.state) == ("0.00", Invoice.PAID)
        assert (await invoices.void(negative)).state == Invoice.VOID

    async def test_an_invoice_of_zero_is_paid_at_once_and_can_be_voided(
        self, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        cost = await costs.allocate(it, "5.00 EUR", allocation_date="2026-10-05")
        await costs.reverse(cost, allocation_date="2026-10-06")
        issued = await invoices.issue(await invoices.create(holding, *OCTOBER))
        assert (amounts(issued), totals(issued)) == (["0.00"], ("0.00", "0.00", "0.00"))
        assert issued.state == Invoice.PAID
        assert (await invoices.void(issued)).state == Invoice.VOID
        assert (await invoices.create(holding, *OCTOBER)).lines[0].item_count == 2

    @pytest.mark.parametrize(
        ("currency", "expected"),
        [
            ("JPY", ("17000", "3230", "20230")),
            ("KWD", ("33.333", "6.333", "39.666")),
            ("BHD", ("33.333", "6.333", "39.666")),
        ],
    )
    async def test_amounts_have_the_decimal_places_of_the_currency(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department,
        currency: str, expected: tuple[str, str, str],
    ) -> None:  # fmt: skip
        await api.set_rates("2026-10-01 EUR/JPY 170", "2026-10-01 EUR/KWD 0.33333", "2026-10-01 EUR/BHD 0.33333")
        await costs.allocate(it, "100.00 EUR", allocation_date="2026-10-05")
        assert totals(await invoices.create(holding, *OCTOBER, currency_code=currency)) == expected


class TestLines:
    async def test_too_many_lines_are_refused_and_take_nothing(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        for code in ("A", "B"):
            await costs.allocate(await api.create_department(holding, code), allocation_date="2026-10-05")
        draft = await invoices.create(holding, *OCTOBER)
        monkeypatch.setattr(service.invoices, "LINES_MAX", 2)
        await costs.allocate(await api.create_department(holding, "C"), allocation_date="2026-10-05")
        refused = await refusal(invoices.refresh(draft))
        assert (refused.reason, refused.metadata) == ("INVOICE_TOO_LARGE", {"lines": "3", "lines_max": "2"})
        assert await invoices.get(draft) == draft
        await invoices.void(draft)
        assert (await refusal(invoices.create(holding, *OCTOBER))).reason == "INVOICE_TOO_LARGE"
        monkeypatch.undo()
        assert (await invoices.create(holding, *OCTOBER)).line_count == 3

    async def test_too_many_eliminated_charges_are_refused(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        for code in ("A", "B", "C"):
            supplier = await api.create_entity(code, parent_id=holding.id)
            await costs.allocate(it, allocation_date="2026-10-05", counterparty_entity_id=supplier.id)
        await costs.allocate(it, allocation_date="2026-10-05")
        monkeypatch.setattr(service.invoices, "LINES_MAX", 2)
        refused = await refusal(invoices.create(holding, *OCTOBER))
        assert (refused.reason, refused.metadata) == ("INVOICE_TOO_LARGE", {"lines": "3", "lines_max": "2"})

    async def test_page_tokens_belong_to_one_list(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        for code in ("A", "B", "C"):
            await costs.allocate(await api.create_department(holding, code), allocation_date="2026-10-05")
        draft = await invoices.create(holding, *OCTOBER)
        assert await invoices.lines(draft, page_size=1) == list(draft.lines)
        call, stub, line_id = invoices.caller.call, invoices.stub, draft.lines[0].id
        token = (
            await call(stub.ListInvoiceLines, pb.ListInvoiceLinesRequest(id=draft.id, page_size=1))
        ).next_page_token
        others = (
            call(stub.ListInvoices, pb.ListInvoicesRequest(page_token=token)),
            call(
                stub.ListInvoiceLines,
                pb.ListInvoiceLinesRequest(id=draft.id, entity_id=holding.id, page_token=token),
            ),
            call(
                stub.ListInvoiceLineItems,
                pb.ListInvoiceLineItemsRequest(id=draft.id, line_id=line_id, page_token=token),
            ),
        )
        for other in others:
            assert (await refusal(other)).reason == "PAGE_TOKEN_INVALID"


class TestConcurrency:
    async def test_of_drafts_of_parent_and_child_one_has_the_costs_and_fees(
        self, api: EntitiesApi, costs: AllocationApi, contracts: ContractApi, invoices: InvoiceApi, holding: Entity
    ) -> None:
        child = await api.create_entity("SUB", parent_id=holding.id)
        await costs.allocate(await api.create_department(child, "IT"), "10.00 EUR", allocation_date="2026-10-15")
        await contracts.create_active(child, start_date="2026-10-01", end_date="2027-10-01")
        made, refused = await outcomes(*(invoices.create(each, *OCTOBER) for each in (holding, child) * 4))
        assert [each.net.amount for each in made] == ["110.00"]
        assert refused <= {"INVOICE_EMPTY", "INVOICE_PERIOD_TAKEN"}

    async def test_a_draft_that_is_changed_at_once_in_all_ways_ends_void(
        self, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-15")
        for _ in range(3):
            draft = await invoices.create(holding, *OCTOBER)
            assert draft.net.amount == "10.00"
            _, refused = await outcomes(
                invoices.refresh(draft), invoices.issue(draft), invoices.void(draft), invoices.issue(draft),
                invoices.void(draft),
            )  # fmt: skip
            assert refused == {"INVOICE_STATE"}
            assert (await invoices.get(draft)).state == Invoice.VOID


class TestCallers:
    async def test_invoices_outside_of_scope_and_tenant_do_not_exist(
        self, api: EntitiesApi, costs: AllocationApi, invoices: InvoiceApi, entities: Entities,
        caller: Callable[..., Caller], holding: Entity,
    ) -> None:  # fmt: skip
        child = await api.create_entity("SUB", parent_id=holding.id)
        department = await api.create_department(child, "IT")
        await costs.allocate(department, "10.00 EUR", allocation_date="2026-10-15")
        of_child = InvoiceApi(caller(entity_scope=[child.id]), entities)
        assert (await refusal(of_child.create(holding, *OCTOBER))).reason == "ENTITY_NOT_FOUND"
        draft = await of_child.create(child, *OCTOBER)
        of_department = InvoiceApi(caller(department_scope=[department.id]), entities)
        stranger = InvoiceApi(caller(tenant=uuid4()), entities)
        for other in (of_department, stranger):
            assert (await refusal(other.create(child, *OCTOBER))).reason == "ENTITY_NOT_FOUND"
            assert not (await other.list_page()).invoices
            for call in (
                other.get(draft), other.refresh(draft), other.issue(draft), other.void(draft), other.lines(draft),
                other.items(draft, draft.lines[0]),
            ):  # fmt: skip
                assert (await refusal(call)).reason == "INVOICE_NOT_FOUND"

    async def test_texts_are_checked(
        self, costs: AllocationApi, invoices: InvoiceApi, holding: Entity, it: Department
    ) -> None:
        await costs.allocate(it, "10.00 EUR", allocation_date="2026-10-15")
        longest = "ß" * 2000
        draft = await invoices.create(holding, *OCTOBER, note=longest)
        assert (await invoices.issue(draft)).note == longest
        for call in (
            invoices.create(holding, "2026-09-01", "2026-10-01", note=longest + "."),
            invoices.create(holding, "2026-09-01", "2026-10-01", note="a\0b"),
            invoices.create(holding, "2026-13-01", "2026-10-01"),
            invoices.void(draft, reason="a\0b"),
            invoices.list_page(q="a\0b"),
        ):
            assert (await refusal(call)).code is StatusCode.INVALID_ARGUMENT
