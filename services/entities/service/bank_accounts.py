"""Validation of bank accounts."""

from stdnum import iban

from kit.errors import InvalidFields, Violation
from services.entities.domain.billing_profiles import BankAccountRecord


def normalize(account: BankAccountRecord) -> BankAccountRecord:
    """Return the account with its IBAN in the electronic form, without spaces. Raises InvalidFields."""
    if not iban.is_valid(account["iban"]):
        text = f"must be an IBAN with the right check digits, such as DE89370400440532013000; not {account['iban']!r}"
        raise InvalidFields([Violation("bank_account.iban", text, "known.iban")])
    return {**account, "iban": iban.compact(account["iban"])}
