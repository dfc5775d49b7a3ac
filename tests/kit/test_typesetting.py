"""PDF files: what users wrote is shown as it is, and templates read no other files."""

import io
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import hypothesis
import hypothesis.strategies as st
import pypdf
import pytest
import typst

from rendering.glyphs import DISPLAYED
from rendering.typesetting import Raw, displayable, pdf

TEMPLATE: Final = """
#set document(date: datetime(year: 2026, month: 11, day: 2))
#set text(font: ("Libertinus Serif", "New Computer Modern", "DejaVu Sans Mono", "New Computer Modern Math"))
#let data = json(bytes(sys.inputs.data))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "secret").write_text("canary")
    inside = tmp_path / "templates"
    inside.mkdir()
    return inside


def typeset(folder: Path, text: str, data: Any = None) -> bytes:
    template = folder / "template.typ"
    template.write_text(TEMPLATE + text)
    return pdf(template, data)


def test_all_displayed_characters_have_a_glyph(folder: Path) -> None:
    template = folder / "template.typ"
    template.write_text(TEMPLATE + "#for letter in data { par(letter) }")
    pdf(template, [Raw(chr(code)) for code in sorted(DISPLAYED)])


@pytest.mark.parametrize("letter", ["\u65e5", "\ud55c", "\u0e01", "\U0001f600", "\U00020000"])
def test_a_character_without_a_glyph_is_replaced(folder: Path, letter: str) -> None:
    with pytest.raises(typst.TypstError, match="could not be displayed"):
        typeset(folder, "#data", Raw(letter))
    assert displayable(f"a{letter}b") == "a\ufffdb"
    typeset(folder, "#data", letter)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "../secret", "../../secret", "/../secret", "template.typ/../../secret"]
)
def test_a_template_reads_its_own_folder_only(folder: Path, path: str) -> None:
    with pytest.raises(typst.TypstError, match=r"not found|escape|access"):
        typeset(folder, f'#read("{path}")')


@pytest.mark.parametrize("package", ["@preview/example:0.1.0", "@local/example:0.1.0"])
def test_a_template_loads_no_packages(folder: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    with pytest.raises(typst.TypstError):
        typeset(folder, f'#import "{package}": *')


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("  two\n lines\t", "two lines"),
        ("1,250.00\xa0EUR", "1,250.00\xa0EUR"),
        ("nul\x00 bell\x07 delete\x7f", "nul bell delete"),
        ("right \u202eto left\u202c, isolated \u2066x\u2069", "right to left, isolated x"),
        ("e\u0301", "é"),
        ('#read("/etc/passwd") *b* $x$ \\n @r <l> `raw`', '#read("/etc/passwd") *b* $x$ \\n @r <l> `raw`'),
        ("", ""),
    ],
)  # fmt: skip
def test_displayable_texts(text: str, shown: str) -> None:
    assert displayable(text) == shown


@hypothesis.settings(max_examples=50)
@hypothesis.given(st.text(st.one_of(st.sampled_from([chr(code) for code in sorted(DISPLAYED)]), st.characters())))
def test_no_text_prevents_a_document(text: str) -> None:
    with TemporaryDirectory() as folder:
        typeset(Path(folder), "#data", text)


def test_marks_that_typst_can_not_shape_are_replaced(folder: Path) -> None:
    text = " ".join(map(chr, [*range(0x645, 0x65F), 0x65F, 0x660]))
    with pytest.raises(BaseException, match="out of bounds"):  # a panic is no Exception
        typeset(folder, "#data", Raw(text))
    assert (
        pypdf.PdfReader(io.BytesIO(typeset(folder, "#data", f"{text} shown"))).pages[0].extract_text().endswith("shown")
    )


def test_long_words_can_be_broken() -> None:
    word = "x" * 10_000
    parts = displayable(word).split("\u200b")
    assert "".join(parts) == word
    assert max(map(len, parts)) == 24
