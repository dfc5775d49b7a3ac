"""Use cases of minimum commitments: the usage that counts for one."""

from datetime import date
from fractions import Fraction
from uuid import UUID

from kit.db import ReadSession
from kit.money import Money
from services.entities import domain, service, store
from services.entities.domain.commitments import UsageQuery
from services.entities.domain.rates import Conversion
from services.entities.models.contracts import ContractRow


async def get_usage(tx: ReadSession, contract: ContractRow, today: date) -> Money | None:
    """Return the costs that count for the commitment of the contract so far, in its currency.

    Booked amounts in another currency are converted at today's rate; None if a rate is missing.
    """
    days = domain.commitments.days_in_force(contract.start_date, contract.end_date, contract.termination_date)
    others = await store.commitments.list_activated(tx, contract.entity_id)
    query = UsageQuery(
        contract_id=contract.id,
        entity_id=contract.entity_id,
        currency=contract.currency_code,
        unlinked=domain.commitments.exclusive_days(
            days, [other.days for other in others if other.contract_id != contract.id]
        ),
    )
    costs = await store.commitments.sum_usage(tx, query)
    conversions = [Conversion(cost.currency, contract.currency_code, today) for cost in costs]
    rates = await service.rates.find(tx, conversions)
    total = Fraction(0)
    for cost, rate in zip(costs, rates, strict=True):
        if rate is None:
            return None
        total += Fraction(cost.amount) * Fraction(rate.rate)
    return domain.proration.round_exact(total, contract.currency_code)


async def find_only(tx: ReadSession, entity_id: UUID, day: date) -> UUID | None:
    """Return the contract that unlinked usage of the entity on this day counts for; None if there isn't exactly one."""
    commitments = await store.commitments.list_activated(tx, entity_id)
    matching = [each.contract_id for each in commitments if each.days.start <= day < each.days.end]
    return matching[0] if len(matching) == 1 else None
