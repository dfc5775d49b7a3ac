"""Each consumer shows its dead letters on the affected resource, or has a stated reason not to."""

import importlib
from collections.abc import Mapping
from typing import Final

from eventing.consumer import Handler

SERVICES: Final = ("approvals", "budgets", "entities")
WITHOUT_NOTIFICATION: Final[Mapping[str, str]] = {
    "approvals.follow_rolled_over_budget": "the outcome of a request is applied to its hold, wherever that was moved",
    "approvals.follow_moved_holds": "the outcome of a request is applied to its hold, wherever that was moved",
    "approvals.replace_departed_approver": "the step is escalated at the end of its SLA, and expires after that",
    "approvals.cancel_approval_of_contract": "the contract is withdrawn; outcomes of its request have no effect on it",
    "budgets.close_budgets_of_entity": "the entity accepts no costs any more; its budgets show that they are open",
    "budgets.refund_reversed_cost": "the reversal is booked, and no budget refuses a refund; redriving makes it",
    "budgets.refund_credited_cost": "the credit is booked, and no budget refuses a refund; redriving makes it",
    "entities.record_license_release": "the contract has ended",
    "entities.replace_deactivated_manager": "requests replace approvers who left, also managers",
    "entities.allocate_usage": "usage gets no reply; the dead letter has the refusal, and redriving allocates the cost",
}
"""Consumers without a `dead_lettered` handler, with the reason."""


def test_dead_letters_are_shown_unless_there_is_a_reason() -> None:
    handlers: dict[str, Handler] = {
        f"{service}.{handler.name}": handler
        for service in SERVICES
        for handler in importlib.import_module(f"services.{service}.events.consumers").HANDLERS
    }
    assert {name for name, handler in handlers.items() if handler.dead_lettered is None} == set(WITHOUT_NOTIFICATION)
