"""Errors of transfers between budgets."""

from uuid import UUID

from kit import ids
from kit.errors import FailedPrecondition
from kit.money import Money


class TransferExceedsBudget(FailedPrecondition):
    reason = "TRANSFER_EXCEEDS_BUDGET"

    def __init__(self, budget_id: UUID, *, requested: Money, transferable: Money, amount: Money, used: Money) -> None:
        text = ids.BUDGET.format(budget_id)
        super().__init__(
            f"At most {transferable} can be transferred from the budget {text}; {requested} exceeds it."
            f" Its amount is {amount}, of which {used} are spent, held or committed.",
            budget_id=text,
            currency_code=requested.currency,
            requested=requested.text(),
            transferable=transferable.text(),
            amount=amount.text(),
            used=used.text(),
        )
