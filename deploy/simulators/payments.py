"""Simulator of the billing and payment systems of the platform: pays invoices, and pays refunds back.

It consumes RefundRequested of the entities service and replies with RefundCompleted; with RefundFailed if the reason of
the credit note contains "closed account". `python -m deploy.simulators.payments`, with BILLING_NATS_URL; `make up`
starts it.

`python -m deploy.simulators.payments pay inv_… 100.00` publishes a payment; `make pay` uses the local stack. The
currency is EUR unless CURRENCY is set; CONVERTED is the amount in the currency of the invoice, as `90.00 USD`.
"""

import argparse
import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

import nats
from billing.type.v1.money_pb2 import Money
from google.protobuf.message import Message
from outside.payments.v1.payments_pb2 import InvoicePaid, RefundCompleted, RefundFailed

from contract import validation
from deploy.nats_users import system_user
from deploy.options import InvalidOption
from deploy.simulators import replying
from deploy.simulators.publishing import publish
from eventing.subjects import inbox_prefix
from kit.errors import InvalidFields

SOURCE: Final = "/platform/payments"
CLOSED: Final = "closed account"
"""Text in the reason of a credit note whose refund fails."""


def reply_to(name: str, event: Mapping[str, Any]) -> Message:
    """Return the event with which the payment system replies to RefundRequested."""
    refund_id, amount = str(event["refund_id"]), event["amount"]
    if CLOSED in str(event.get("reason", "")):
        return RefundFailed(refund_id=refund_id, reason=f"{name}: the account is closed.")
    return RefundCompleted(
        refund_id=refund_id,
        amount=Money(currency_code=amount["currency_code"], amount=amount["amount"]),
        refund_date=f"{datetime.now(UTC):%Y-%m-%d}",
        reference=f"tx-{refund_id.removeprefix('rfd_')}",
    )


async def run(url: str) -> None:
    """Consume events until cancelled, from the first stored one."""
    await replying.run(url, "payments", ("RefundRequested",), reply_to)


def payment(
    invoice_id: str, amount: str, currency: str = "EUR", *, converted: str = "", payment_id: str = ""
) -> InvoicePaid:
    """Return a payment of today; `converted` is an amount with its currency. Raises InvalidOption."""
    event = InvoicePaid(
        payment_id=payment_id or f"pay-{uuid4().hex}",
        invoice_id=invoice_id,
        amount=Money(currency_code=currency, amount=amount),
        payment_date=f"{datetime.now(UTC):%Y-%m-%d}",
        reference="simulated",
    )
    if converted:
        value, _, code = converted.partition(" ")
        event.converted_amount.CopyFrom(Money(currency_code=code, amount=value))
    try:
        validation.check(event)
    except InvalidFields as error:
        raise InvalidOption(error.message) from None
    return event


async def _pay(url: str, tenant_id: UUID, event: InvoicePaid) -> None:
    client = await nats.connect(
        url.split(","), name="simulator:payments", inbox_prefix=inbox_prefix(system_user("payments"))
    )
    try:
        await publish(client.jetstream(), event, tenant_id, SOURCE)
    finally:
        await client.close()


def main() -> None:
    """Run the command line; options can also be set by the environment."""
    parser = argparse.ArgumentParser(prog="python -m deploy.simulators.payments", description=__doc__)
    parser.add_argument("command", nargs="?", choices=["run", "pay"], default="run")
    parser.add_argument("invoice", nargs="?", default="", help="id of the invoice")
    parser.add_argument("amount", nargs="?", default="", help="what is paid")
    for name, default, meaning in (
        ("currency", "EUR", "currency of the amount"),
        ("converted", "", "amount in the currency of the invoice, with its currency"),
        ("payment", "", "id of the payment; a repeated one counts once"),
        ("tenant", "acme", "tenant: short name or id"),
    ):
        parser.add_argument(f"--{name}", default=os.environ.get(name.upper()) or default, help=meaning)
    arguments = parser.parse_args()
    if arguments.command == "run":
        asyncio.run(run(os.environ["BILLING_NATS_URL"]))
        return
    from deploy.local import keys
    from deploy.local.supervision import NotRunning, running_layout

    try:
        event = payment(
            arguments.invoice,
            arguments.amount,
            arguments.currency,
            converted=arguments.converted,
            payment_id=arguments.payment,
        )
        url = running_layout().nats_url_as(system_user("payments"))
    except (InvalidOption, NotRunning) as failure:
        raise SystemExit(str(failure)) from None
    asyncio.run(_pay(url, keys.tenant_id(arguments.tenant), event))
    print(f"paid {event.amount.amount} {event.amount.currency_code} of {event.invoice_id} as {event.payment_id}")


if __name__ == "__main__":
    main()
