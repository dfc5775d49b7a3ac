"""What a part of the bench is, and what it is handed."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from tests.bench.figures import Goal, Report, ring
from tests.bench.load import Runner, in_turn
from tests.bench.stack import Stack


@dataclass(frozen=True, slots=True)
class Bench:
    """A run of the bench."""

    stack: Stack
    report: Report
    wanted: frozenset[str]
    """The cases that are to be measured."""
    rounds: int

    async def measure(
        self, floors_of: Mapping[str, Sequence[str]], runners: Mapping[str, Runner], goals: Sequence[Goal]
    ) -> None:
        """Measure those cases that are wanted, in turn with their floors."""
        order = ring({case: floors for case, floors in floors_of.items() if case in self.wanted})
        measured = await in_turn(order, runners, self.rounds)
        self.report.add(measured, [goal for goal in goals if goal.case in self.wanted])


@dataclass(frozen=True, slots=True)
class Part:
    """Cases that are set up and measured together."""

    group: str
    cases: tuple[str, ...]
    measure: Callable[[Bench], Awaitable[None]]


def chosen(parts: Sequence[Part], names: Sequence[str]) -> frozenset[str]:
    """The cases of these groups and names; all if none is named. Raises ValueError for a name that there is not."""
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
