"""Errors of billing profiles and their number prefixes."""

from collections.abc import Mapping
from uuid import UUID

from kit import ids
from kit.errors import AlreadyExists, FailedPrecondition, NotFound, Violation
from kit.resources import ResourceNotFound, StateForbids


class BillingProfileNotFound(ResourceNotFound):
    reason = "BILLING_PROFILE_NOT_FOUND"
    kind = ids.BILLING_PROFILE


class BillingProfileMissing(FailedPrecondition):
    reason = "BILLING_PROFILE_MISSING"

    def __init__(self) -> None:
        super().__init__(
            "The tenant has no billing profile, so documents have no issuer; create one with CreateBillingProfile"
            " (POST /billing-profiles). The first one becomes the default."
        )


class BillingProfileInactive(FailedPrecondition):
    reason = "BILLING_PROFILE_INACTIVE"

    def __init__(self, profile_id: UUID) -> None:
        text = ids.BILLING_PROFILE.format(profile_id)
        super().__init__(
            f"The billing profile {text} is INACTIVE and can't issue documents; activate it, or use another one.",
            billing_profile_id=text,
        )


class BillingProfileStateForbids(StateForbids):
    reason = "BILLING_PROFILE_STATE"
    kind = ids.BILLING_PROFILE


class BillingProfileIsDefault(FailedPrecondition):
    reason = "BILLING_PROFILE_IS_DEFAULT"

    def __init__(self, profile_id: UUID) -> None:
        text = ids.BILLING_PROFILE.format(profile_id)
        super().__init__(
            f"The billing profile {text} is the default of the tenant; make another one the default first.",
            billing_profile_id=text,
        )


class NumberPrefixTaken(AlreadyExists):
    reason = "NUMBER_PREFIX_TAKEN"

    def __init__(self, taken: Mapping[str, str]) -> None:
        super().__init__(
            f"Other document numbers of the tenant start with {' and '.join(taken.values())}; choose other prefixes.",
            violations=[
                Violation(field, f"{prefix} is used for other documents", "prefix.taken")
                for field, prefix in taken.items()
            ],
            prefixes=taken.values(),
        )


class VatGroupEntitiesNotFound(NotFound):
    reason = "VAT_GROUP_ENTITIES_NOT_FOUND"

    def __init__(self, missing: Mapping[str, UUID]) -> None:
        texts = {field: ids.ENTITY.format(entity_id) for field, entity_id in missing.items()}
        super().__init__(
            f"There is no entity {', '.join(texts.values())}.",
            violations=[
                Violation(field, f"there is no entity {text}", "entity.known") for field, text in texts.items()
            ],
            entity_ids=texts.values(),
        )
