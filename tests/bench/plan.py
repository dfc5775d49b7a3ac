"""Parts of the bench and the selection of cases."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import Goal, Report, round_order
from tests.bench.load import Runner, interleave
from tests.bench.stack import Stack


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the bench."""

    stack: Stack
    report: Report
    selected: frozenset[str]
    """The selected cases."""
    rounds: int

    async def measure(
        self, floors_of: Mapping[str, Sequence[str]], runners: Mapping[str, Runner], goals: Sequence[Goal]
    ) -> None:
        """Measure the selected cases, in turn with their floors."""
        order = round_order({case: floors for case, floors in floors_of.items() if case in self.selected})
        measured = await interleave(order, runners, self.rounds)
        self.report.add(measured, [goal for goal in goals if goal.case in self.selected])


@dataclass(frozen=True, slots=True)
class Part:
    """Cases that are set up and measured together."""

    group: str
    cases: tuple[str, ...]
    measure: Callable[[Bench], Awaitable[None]]


def select_cases(parts: Sequence[Part], names: Sequence[str]) -> frozenset[str]:
    """Return the cases of these groups and names; all without names. Raises ValueError for an unknown name."""
    groups = {group: {case for part in parts if part.group == group for case in part.cases} for group in _groups(parts)}
    every = set().union(*groups.values())
    unknown = [name for name in names if name not in groups and name not in every]
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: the groups are {', '.join(groups)}; the cases {', '.join(sorted(every))}"
        )
    return frozenset(set().union(*(groups.get(name, {name}) for name in names)) if names else every)


def _groups(parts: Sequence[Part]) -> list[str]:
    return list(dict.fromkeys(part.group for part in parts))
