"""The payments simulator pays refunds back, and publishes payments of invoices."""

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from billing.entities.v1.events_pb2 import RefundRequested
from billing.type.v1.money_pb2 import Money
from nats.js import JetStreamContext
from outside.payments.v1.payments_pb2 import RefundCompleted, RefundFailed

from contract import validation
from deploy.options import InvalidOption
from deploy.simulators import payments, publishing
from kit import tasks
from tests.harness.observe import PublishedEvents

REFUND, INVOICE = "rfd_" + "7" * 32, "inv_" + "7" * 32


@pytest.fixture(autouse=True)
async def simulator(nats_url: str) -> AsyncIterator[None]:
    """Run the simulator."""
    running = asyncio.create_task(payments.run(nats_url))
    yield
    await tasks.cancel_and_wait(running)


async def request_refund(jetstream: JetStreamContext, tenant: UUID, reason: str) -> None:
    event = RefundRequested(refund_id=REFUND, amount=Money(currency_code="EUR", amount="12.50"), reason=reason)
    await publishing.publish(jetstream, event, tenant, "/billing/entities")


async def test_refund_is_paid_back(jetstream: JetStreamContext, tenant: UUID, outside_events: PublishedEvents) -> None:
    await request_refund(jetstream, tenant, "Outage")
    event = await outside_events.first(RefundCompleted)
    assert (event.refund_id, event.amount.amount, event.amount.currency_code) == (REFUND, "12.50", "EUR")
    validation.check(event)


async def test_refund_to_a_closed_account_fails(
    jetstream: JetStreamContext, tenant: UUID, outside_events: PublishedEvents
) -> None:
    await request_refund(jetstream, tenant, "Outage, closed account")
    event = await outside_events.first(RefundFailed)
    assert (event.refund_id, bool(event.reason)) == (REFUND, True)
    validation.check(event)


def test_payment_has_the_stated_amounts() -> None:
    event = payments.payment(INVOICE, "110.00", "USD", converted="99.00 EUR", payment_id="pay-7")
    assert (event.invoice_id, event.payment_id, event.amount.currency_code) == (INVOICE, "pay-7", "USD")
    assert (event.converted_amount.amount, event.converted_amount.currency_code) == ("99.00", "EUR")


@pytest.mark.parametrize(("invoice", "amount"), [("", "1.00"), ("inv_1", "1.00"), (INVOICE, ""), (INVOICE, "1.001")])
def test_invalid_options_are_named(invoice: str, amount: str) -> None:
    with pytest.raises(InvalidOption):
        payments.payment(invoice, amount)
