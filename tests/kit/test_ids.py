"""Ids: time-ordered, with a kind, readable."""

import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit import ids
from kit.errors import InvalidFields

kinds = st.sampled_from(list(ids.KINDS.values()))


class TestNew:
    def test_an_id_is_a_uuid_of_version_7_with_the_current_time(self) -> None:
        before = time.time_ns() // 1_000_000
        made = ids.new()
        assert made.version == 7
        assert made.variant == "specified in RFC 4122"
        assert before <= made.int >> 80 <= time.time_ns() // 1_000_000

    def test_ids_are_unique(self) -> None:
        assert len({ids.new() for _ in range(10_000)}) == 10_000


class TestKind:
    @given(kinds, st.uuids())
    def test_a_formatted_id_parses_to_the_same_id(self, kind: ids.Kind, id: UUID) -> None:
        assert kind.parse(kind.format(id)) == id

    @given(kinds, st.text() | st.from_regex(r"[a-z]{3}_[0-9a-fA-F_{}-]{32}", fullmatch=True))
    def test_other_texts_are_rejected(self, kind: ids.Kind, text: str) -> None:
        try:
            parsed = kind.parse(text)
        except InvalidFields:
            return
        assert kind.format(parsed) == text

    @pytest.mark.parametrize(
        "digits", ["１" * 32, "1_" * 15 + "11", "A" * 32, "0" * 31, "0" * 33, "{" + "0" * 30 + "}"]
    )
    def test_digits_must_be_lower_case_hexadecimal(self, digits: str) -> None:
        with pytest.raises(InvalidFields):
            ids.BUDGET.parse(f"bud_{digits}")

    def test_the_error_names_the_kind_of_another_id(self) -> None:
        with pytest.raises(InvalidFields) as refused:
            ids.BUDGET.parse(ids.ENTITY.format(ids.new()), "budget_id")
        (violation,) = refused.value.violations
        assert violation.field == "budget_id"
        assert "bud_" in violation.description
        assert "this is the id of an entity" in violation.description

    def test_none_is_empty_text(self) -> None:
        assert ids.BUDGET.format_optional(None) == ""
        assert ids.BUDGET.parse_optional("") is None

    def test_prefixes_are_unique(self) -> None:
        made = [kind for kind in vars(ids).values() if isinstance(kind, ids.Kind)]
        assert len({kind.prefix for kind in made}) == len(made) == len(ids.KINDS)


def test_bounds_enclose_ids_made_by_a_skewed_clock() -> None:
    made = ids.new()
    create_time = ids.time_of(made)
    for skew in (-ids.CLOCK_SKEW_MAX, timedelta(0), ids.CLOCK_SKEW_MAX):
        assert ids.lower_bound(create_time + skew) <= made
        assert made < ids.upper_bound(create_time + skew + timedelta(milliseconds=1))


def test_the_time_of_an_id_and_the_first_id_of_a_time() -> None:
    before = datetime.now(UTC)
    made = ids.new()
    assert timedelta(milliseconds=-1) <= ids.time_of(made) - before < timedelta(seconds=5)
    moment = datetime(2026, 3, 2, 9, 30, 0, 123000, tzinfo=UTC)
    assert ids.time_of(ids.first_of(moment)) == moment
    assert ids.first_of(before) <= made < ids.first_of(datetime.now(UTC) + timedelta(milliseconds=2))
