"""Typesets PDF files with Typst: PDF/A-3b, the same bytes for the same data."""

import json
import re
import unicodedata
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

import typst

from rendering.glyphs import DISPLAYED

_REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_WORD_MAX: Final = 24
_BREAK: Final = "\N{ZERO WIDTH SPACE}"
_LINE_BREAKS: Final = re.compile("[ \t\n\r\v\f\x1c-\x1f\x85\u2028\u2029]+")
_HIDDEN: Final = frozenset({"Cc", "Cf"})
"""Categories of controls. Those that reorder text could make it look like another one."""
_SIMPLE: Final = frozenset(
    code
    for code in (*range(0x590), *range(0x1E00, 0x2C00))
    if code in DISPLAYED and not unicodedata.category(chr(code)).startswith("M")
)
"""Latin, Greek, Cyrillic and signs, whose glyphs do not depend on their neighbours."""


class Raw(str):
    """A text that templates get as it is, such as an SVG image."""

    __slots__ = ()


def pdf(template: Path, data: Any) -> bytes:
    """Return the PDF that a template makes of `data`, which it reads by `json(bytes(sys.inputs.data))`.

    Each text in `data` is made displayable. The template can read files of its own folder only.
    """
    try:
        return _compiled(template, _displayable(data, DISPLAYED))
    except MemoryError:
        raise
    except BaseException as error:
        # Typst refuses some combinations of letters and marks, and panics at others, which is no Exception.
        if not isinstance(error, typst.TypstError) and type(error).__name__ != "PanicException":
            raise
        return _compiled(template, _displayable(data, _SIMPLE))


def _compiled(template: Path, data: Any) -> bytes:
    return typst.compile(
        template,
        root=template.parent,
        ignore_system_fonts=True,
        sys_inputs={"data": json.dumps(data, ensure_ascii=False)},
        pdf_standards="a-3b",
        pdf_tags=False,  # seven times the size
        timestamp=0,
    )


def _displayable(data: Any, displayed: Container[int]) -> Any:
    match data:
        case Raw():
            return data
        case str():
            return displayable(data, displayed)
        case dict():
            return {name: _displayable(value, displayed) for name, value in data.items()}
        case list() | tuple():
            return [_displayable(value, displayed) for value in data]
        case _:
            return data


def displayable(text: str, displayed: Container[int] = DISPLAYED) -> str:
    """Return a text on one line with the characters that the fonts have, and places to break long words.

    The fonts of Typst have Latin, Greek, Cyrillic, Hebrew, Arabic and Devanagari; PDF/A forbids characters without a
    glyph, so others become U+FFFD.
    """
    if text.isascii() and text.isprintable() and len(text) <= _WORD_MAX:
        return text
    line = _LINE_BREAKS.sub(" ", unicodedata.normalize("NFC", text)).strip()
    shown = (letter for letter in line if unicodedata.category(letter) not in _HIDDEN)
    with_glyphs = "".join(letter if ord(letter) in displayed else _REPLACEMENT for letter in shown)
    return " ".join(map(_breakable, with_glyphs.split(" ")))


def _breakable(word: str) -> str:
    if len(word) <= _WORD_MAX:
        return word
    return _BREAK.join(word[start : start + _WORD_MAX] for start in range(0, len(word), _WORD_MAX))
