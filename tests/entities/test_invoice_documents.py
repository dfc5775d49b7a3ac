"""Invoices as files over gRPC: formats, drafts, stored files, permissions and scopes."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from billing.entities.v1 import invoice_document_service_pb2 as pb
from billing.entities.v1.billing_profile_pb2 import BankAccount, ElectronicAddress
from billing.entities.v1.credit_note_pb2 import CreditNote
from billing.entities.v1.department_pb2 import Department
from billing.entities.v1.entity_pb2 import Entity
from billing.entities.v1.invoice_pb2 import Invoice
from billing.type.v1.file_pb2 import FileInfo
from grpc import StatusCode

from tests.entities.allocation_api import AllocationApi
from tests.entities.billing_profile_api import BillingProfileApi
from tests.entities.credit_note_api import CreditNoteApi
from tests.entities.entities_api import EntitiesApi
from tests.entities.invoice_api import InvoiceApi
from tests.harness.callers import Caller, refusal
from tests.harness.services import Entities

Format = pb.GetInvoiceDocumentRequest.Format


@dataclass
class Downloaded:
    """A file."""

    media_type: str
    info: FileInfo
    content: bytes


class Files:
    """Downloads invoices on behalf of a caller."""

    def __init__(self, caller: Caller, stubs: Entities) -> None:
        self.caller = caller
        self.stub = stubs.invoice_documents

    async def download(self, document: Invoice | CreditNote, file_format: str) -> Downloaded:
        """An invoice or credit note as a file, received as a whole."""
        fields: dict[str, Any] = {"id": document.id, "format": Format.Value(file_format)}
        call: Any
        if isinstance(document, Invoice):
            request = pb.GetInvoiceDocumentRequest(**fields)
            call = self.stub.GetInvoiceDocument(request, metadata=self.caller.metadata, timeout=60)
        else:
            note_request = pb.GetCreditNoteDocumentRequest(**fields)
            call = self.stub.GetCreditNoteDocument(note_request, metadata=self.caller.metadata, timeout=60)
        messages = [message async for message in call]
        info = FileInfo()
        assert messages[0].extensions[0].Unpack(info)
        content = b"".join(message.data for message in messages)
        assert (info.size_bytes, info.sha256) == (len(content), hashlib.sha256(content).hexdigest())
        return Downloaded(messages[0].content_type, info, content)


@pytest.fixture
def files(entities: Entities, finance: Caller) -> Files:
    return Files(finance, entities)


OCTOBER = ("2026-10-01", "2026-11-01")


@pytest.fixture
async def holding(api: EntitiesApi, profiles: BillingProfileApi) -> Entity:
    """A company with an issuer that has all data of an electronic invoice."""
    await profiles.create(
        "Shared Services",
        vat_id="DE136695976",
        electronic_address=ElectronicAddress(scheme="EM", id="billing@acme.example"),
        bank_account=BankAccount(iban="DE02120300000000202051"),
    )
    return await api.create_entity("HOLD", tax_rate_bp=1900)


@pytest.fixture
async def department(api: EntitiesApi, holding: Entity) -> Department:
    return await api.create_department(holding, "ENG")


@pytest.fixture
async def draft(costs: AllocationApi, invoices: InvoiceApi, holding: Entity, department: Department) -> Invoice:
    await costs.allocate(department, "100.00 EUR", allocation_date="2026-10-05")
    return await invoices.create(holding, *OCTOBER)


@pytest.fixture
async def issued(invoices: InvoiceApi, draft: Invoice) -> Invoice:
    return await invoices.issue(draft)


class TestFormats:
    async def test_json_has_the_amounts(self, files: Files, issued: Invoice) -> None:
        file = await files.download(issued, "JSON")
        assert (file.media_type, file.info.name) == ("application/json", f"{issued.number}.json")
        record = json.loads(file.content)
        assert (record["number"], record["net"], record["total"]) == (issued.number, "100.00", "119.00")

    @pytest.mark.parametrize(("file_format", "root"), [("CII", b"CrossIndustryInvoice"), ("UBL", b"<Invoice ")])
    async def test_electronic_invoices(self, files: Files, issued: Invoice, file_format: str, root: bytes) -> None:
        file = await files.download(issued, file_format)
        assert (file.media_type, file.info.name) == ("application/xml", f"{issued.number}.xml")
        assert root in file.content
        assert b">119.00<" in file.content

    async def test_csv(self, files: Files, issued: Invoice) -> None:
        file = await files.download(issued, "CSV")
        assert file.media_type.startswith("text/csv")
        assert b'"100.00"' in file.content or b",100.00," in file.content


class TestDrafts:
    async def test_a_draft_has_no_number_in_its_file_name(self, files: Files, draft: Invoice) -> None:
        file = await files.download(draft, "JSON")
        assert file.info.name == "draft-invoice-2026-10-01.json"
        assert json.loads(file.content)["number"] == ""

    async def test_a_draft_is_rendered_each_time(
        self, costs: AllocationApi, invoices: InvoiceApi, files: Files, department: Department, draft: Invoice
    ) -> None:
        before = await files.download(draft, "CSV")
        await costs.allocate(department, "1.00 EUR", allocation_date="2026-10-06")
        await invoices.refresh(draft)
        after = await files.download(draft, "CSV")
        assert after.content != before.content

    @pytest.mark.parametrize("file_format", ["CII", "UBL", "ZUGFERD"])
    async def test_a_draft_is_no_electronic_invoice(self, files: Files, draft: Invoice, file_format: str) -> None:
        refused = await refusal(files.download(draft, file_format))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "INVOICE_STATE")
        assert "DRAFT" in refused.message

    async def test_what_an_electronic_invoice_lacks_is_listed(
        self, api: EntitiesApi, profiles: BillingProfileApi, costs: AllocationApi, invoices: InvoiceApi, files: Files
    ) -> None:
        await profiles.create("Shared Services")
        entity = await api.create_entity("HOLD", tax_rate_bp=1900)
        await costs.allocate(await api.create_department(entity, "ENG"), "1.00 EUR", allocation_date="2026-10-05")
        invoice = await invoices.issue(await invoices.create(entity, *OCTOBER))
        refused = await refusal(files.download(invoice, "UBL"))
        assert refused.reason == "EINVOICE_INCOMPLETE"
        assert "The issuer has no VAT id." in refused.message
        assert (await files.download(invoice, "JSON")).info.name == f"{invoice.number}.json"


class TestStoredFiles:
    async def test_every_download_has_the_same_bytes(self, files: Files, issued: Invoice) -> None:
        first, *others = await asyncio.gather(*(files.download(issued, "UBL") for _ in range(3)))
        again = await files.download(issued, "UBL")
        assert {each.content for each in (*others, again)} == {first.content}

    async def test_a_void_invoice_still_has_its_file(self, invoices: InvoiceApi, files: Files, issued: Invoice) -> None:
        before = await files.download(issued, "CII")
        await invoices.void(issued)
        assert (await files.download(issued, "CII")).content == before.content


class TestCreditNotes:
    @pytest.fixture
    async def note(self, credit_notes: CreditNoteApi, issued: Invoice) -> CreditNote:
        return await credit_notes.create(issued, {1: "40.00"})

    async def test_json_has_the_credited_amounts_and_the_invoice(
        self, files: Files, issued: Invoice, note: CreditNote
    ) -> None:
        file = await files.download(note, "JSON")
        record = json.loads(file.content)
        assert (file.info.name, record["number"]) == (f"{note.number}.json", note.number)
        assert (record["net"], record["tax"], record["total"]) == ("40.00", "7.60", "47.60")
        assert [each["amount"] for each in record["lines"]] == ["40.00"]
        assert (record["credited_number"], record["credited_issue_date"]) == (issued.number, issued.issue_date)

    @pytest.mark.parametrize(("file_format", "root"), [("CII", b">381<"), ("UBL", b"<CreditNote ")])
    async def test_electronic_credit_notes(
        self, files: Files, issued: Invoice, note: CreditNote, file_format: str, root: bytes
    ) -> None:
        first = await files.download(note, file_format)
        assert root in first.content
        assert issued.number.encode() in first.content
        assert (await files.download(note, file_format)).content == first.content

    @pytest.mark.parametrize("file_format", ["PDF", "ZUGFERD"])
    async def test_pdf(self, files: Files, note: CreditNote, file_format: str) -> None:
        file = await files.download(note, file_format)
        assert (file.media_type, file.info.name) == ("application/pdf", f"{note.number}.pdf")
        assert file.content.startswith(b"%PDF-1.7")
        assert (b"factur-x.xml" in file.content) == (file_format == "ZUGFERD")

    async def test_a_credit_note_outside_of_the_scope_is_not_found(
        self, entities: Entities, caller: Callable[..., Caller], api: EntitiesApi, note: CreditNote
    ) -> None:
        other = await api.create_entity("OTHER")
        conny = Files(caller("finance", subject="conny", entity_scope=[other.id]), entities)
        assert (await refusal(conny.download(note, "JSON"))).reason == "CREDIT_NOTE_NOT_FOUND"


class TestAccess:
    async def test_an_invoice_outside_of_the_scope_is_not_found(
        self, entities: Entities, caller: Callable[..., Caller], api: EntitiesApi, issued: Invoice
    ) -> None:
        other = await api.create_entity("OTHER")
        conny = Files(caller("finance", subject="conny", entity_scope=[other.id]), entities)
        refused = await refusal(conny.download(issued, "JSON"))
        assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "INVOICE_NOT_FOUND")

    async def test_other_roles_are_refused(
        self, entities: Entities, caller: Callable[..., Caller], issued: Invoice
    ) -> None:
        refused = await refusal(Files(caller("approver"), entities).download(issued, "JSON"))
        assert refused.code == StatusCode.PERMISSION_DENIED
