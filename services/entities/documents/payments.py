"""How an issued document is paid, and the payment code that banking apps scan."""

import io
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from segno.helpers import make_epc_qr
from stdnum import iban

_NAME_MAX: Final = 70
_REFERENCE_MAX: Final = 140
_AMOUNT_MAX: Final = Decimal("999999999.99")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """The account to pay to."""

    holder: str
    iban: str
    bic: str
    reference: str
    """The number of the document."""

    @property
    def iban_groups(self) -> str:
        """The IBAN in groups of four."""
        return " ".join(self.iban[start : start + 4] for start in range(0, len(self.iban), 4))


def payment(document: Any) -> Payment | None:
    """Return how to pay; None for drafts, credit notes, totals up to zero, and issuers without an account."""
    account = document["issuer"]["bank_account"]
    payable = document["number"] and document["type"] != "CREDIT_NOTE" and Decimal(document["total"]) > 0
    if not payable or not account or not account["iban"]:
        return None
    return Payment(
        holder=account["holder"] or document["issuer"]["legal_name"],
        iban="".join(account["iban"].split()).upper(),
        bic=account["bic"],
        reference=document["number"],
    )


def code(to: Payment, currency: str, amount: Decimal) -> str | None:
    """Return the EPC payment code as SVG; None unless the amount is in euro, the IBAN is valid and all fits into it."""
    if currency != "EUR" or not iban.is_valid(to.iban) or amount > _AMOUNT_MAX:
        return None
    name, reference = _one_line(to.holder, _NAME_MAX), _one_line(to.reference, _REFERENCE_MAX)
    try:
        qr = make_epc_qr(name, to.iban, amount, text=reference, bic=to.bic or None, encoding="utf-8")
    except ValueError:  # such as a BIC of another length
        return None
    image = io.BytesIO()
    qr.save(image, kind="svg", border=2, xmldecl=False)
    return image.getvalue().decode()


def _one_line(text: str, length: int) -> str:
    """Return the text without line breaks, which separate the fields of a code."""
    return " ".join(text.split())[:length]
