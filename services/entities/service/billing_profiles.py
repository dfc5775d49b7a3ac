"""Use cases of billing profiles."""

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any, Final
from uuid import UUID

from kit.db import ReadSession, WriteSession
from kit.errors import InvalidFields, Violation
from services.entities import domain, service, store
from services.entities.domain.billing_profiles import (
    PREFIX_FIELDS,
    BillingProfileAction,
    BillingProfileDraft,
    BillingProfileState,
)
from services.entities.domain.entities import TIME_ZONE_DEFAULT
from services.entities.errors.billing_profiles import (
    BillingProfileInactive,
    BillingProfileIsDefault,
    NumberPrefixTaken,
    VatGroupEntitiesNotFound,
)
from services.entities.models.billing_profiles import BillingProfileRow
from services.entities.models.entities import EntityRow

_FIELDS: Final = tuple(field.name for field in fields(BillingProfileDraft))


async def find_issuer(tx: ReadSession, profile_id: UUID | None) -> BillingProfileRow:
    """Return the profile that issues a document: the given one, or else the default of the tenant.

    Raises BillingProfileNotFound, BillingProfileMissing, BillingProfileInactive.
    """
    if profile_id is None:
        return await store.billing_profiles.get_default(tx)
    profile = await store.billing_profiles.get(tx, profile_id)
    if profile.state is BillingProfileState.INACTIVE:
        raise BillingProfileInactive(profile_id)
    return profile


async def create(tx: WriteSession, draft: BillingProfileDraft) -> BillingProfileRow:
    """Create a profile. The first one of the tenant becomes the default.

    Raises EntityNotFound, VatGroupEntitiesNotFound, NumberPrefixTaken, InvalidFields.
    """
    entity = await store.entities.lock_shared_unscoped(tx, draft.entity_id) if draft.entity_id else None
    draft = await _checked(tx, _with_defaults(draft, entity))
    default = await store.billing_profiles.lock_default(tx)
    draft = replace(draft, is_default=draft.is_default or default is None)
    if default and draft.is_default:
        await _clear_default(tx, default)
    profile = BillingProfileRow(**asdict(draft), state=BillingProfileState.ACTIVE)
    await store.billing_profiles.save(tx, profile)
    await _reserve_prefixes(tx, profile, draft)
    return profile


def _with_defaults(draft: BillingProfileDraft, entity: EntityRow | None) -> BillingProfileDraft:
    """Fill empty fields with the legal data of the entity, and empty prefixes with the default ones."""
    prefixes = domain.billing_profiles.default_prefixes(entity.invoice_prefix if entity else "")
    defaults: dict[str, Any] = {**prefixes, "time_zone": TIME_ZONE_DEFAULT}
    if entity:
        address = entity.address or {"lines": [], "postal_code": "", "city": "", "region": "", "country_code": ""}
        defaults |= {
            "legal_name": entity.legal_name,
            "vat_id": entity.tax_id,
            "registration_number": entity.registration_number,
            "address": {**address, "country_code": address["country_code"] or entity.country_code},
            "currency_code": entity.currency_code,
            "time_zone": entity.time_zone,
        }
    return replace(draft, **{field: value for field, value in defaults.items() if not getattr(draft, field)})


async def _checked(tx: ReadSession, draft: BillingProfileDraft) -> BillingProfileDraft:
    """Return the draft with its bank account normalized. Raises InvalidFields, VatGroupEntitiesNotFound."""
    service.field_violations.raise_any(domain.billing_profiles.violations(draft))
    assert draft.address is not None  # noqa: S101 - one of the violations
    service.tax_ids.check(draft.address["country_code"], draft.vat_id, field="vat_id")
    known = await store.entities.filter_existing(tx, draft.vat_group_entity_ids)
    missing = {
        f"vat_group_entity_ids[{index}]": entity_id
        for index, entity_id in enumerate(draft.vat_group_entity_ids)
        if entity_id not in known
    }
    if missing:
        raise VatGroupEntitiesNotFound(missing)
    account = draft.bank_account
    return replace(draft, bank_account=service.bank_accounts.normalize(account) if account else None)


async def _clear_default(tx: WriteSession, default: BillingProfileRow) -> None:
    default.is_default = False
    await store.billing_profiles.save(tx, default)


async def _reserve_prefixes(tx: WriteSession, profile: BillingProfileRow, draft: BillingProfileDraft) -> None:
    taken = await store.number_series.reserve(tx, profile.id, draft.prefixes)
    if taken:
        raise NumberPrefixTaken({PREFIX_FIELDS[kind]: draft.prefixes[kind] for kind in sorted(taken)})


async def update(tx: WriteSession, profile_id: UUID, changes: Mapping[str, Any], *, etag: str) -> BillingProfileRow:
    """Change a profile; `is_default` makes it the default in place of another one.

    New prefixes apply to series that begin after the change. Raises BillingProfileNotFound, BillingProfileStateForbids,
    VatGroupEntitiesNotFound, NumberPrefixTaken, InvalidFields, EtagMismatch.
    """
    default = await store.billing_profiles.lock_default(tx) if "is_default" in changes else None
    profile = await store.billing_profiles.lock(tx, profile_id)
    profile.check_etag(etag)
    profile.state = domain.billing_profiles.advance(profile.id, profile.state, BillingProfileAction.CHANGE)
    before = BillingProfileDraft(**{field: getattr(profile, field) for field in _FIELDS})
    draft = await _checked(tx, replace(before, **changes))
    if draft.is_default != before.is_default:
        await _move_default(tx, default, profile)
    for field in changes:
        setattr(profile, field, getattr(draft, field))
    await store.billing_profiles.save(tx, profile)
    if draft.prefixes != before.prefixes:
        await _reserve_prefixes(tx, profile, draft)
    return profile


async def _move_default(tx: WriteSession, default: BillingProfileRow | None, profile: BillingProfileRow) -> None:
    if profile.is_default:
        text = "can't be cleared; set it on another billing profile, which then is the default instead"
        raise InvalidFields([Violation("is_default", text, "profile.default")])
    domain.billing_profiles.advance(profile.id, profile.state, BillingProfileAction.MAKE_DEFAULT)
    if default:
        await _clear_default(tx, default)


async def deactivate(tx: WriteSession, profile_id: UUID, *, etag: str) -> BillingProfileRow:
    """Deactivate a profile that is not the default.

    Raises BillingProfileNotFound, BillingProfileStateForbids, BillingProfileIsDefault, EtagMismatch.
    """
    profile = await store.billing_profiles.lock(tx, profile_id)
    profile.check_etag(etag)
    profile.state = domain.billing_profiles.advance(profile.id, profile.state, BillingProfileAction.DEACTIVATE)
    if profile.is_default:
        raise BillingProfileIsDefault(profile.id)
    await store.billing_profiles.save(tx, profile)
    return profile


async def activate(tx: WriteSession, profile_id: UUID, *, etag: str) -> BillingProfileRow:
    """Activate a profile again. Raises BillingProfileNotFound, BillingProfileStateForbids, EtagMismatch."""
    profile = await store.billing_profiles.lock(tx, profile_id)
    profile.check_etag(etag)
    profile.state = domain.billing_profiles.advance(profile.id, profile.state, BillingProfileAction.ACTIVATE)
    await store.billing_profiles.save(tx, profile)
    return profile
