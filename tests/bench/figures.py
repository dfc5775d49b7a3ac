"""What is made of slices: the order they are measured in, ratios to their neighbours, and the report. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

FLOOR: Final = "floor_"
"""What the names of floors start with."""


@dataclass(frozen=True, slots=True)
class Slice:
    """What was done in one short while."""

    done: int
    """Calls, or what a call does many of."""
    seconds: float
    latencies_s: tuple[float, ...]
    """Of each call."""
    cpu_s: float = 0.0
    """Processor time that the server took for it."""

    @property
    def per_s(self) -> float:
        """The rate."""
        return self.done / self.seconds

    def latency_s(self, share: float) -> float:
        """The time in which so large a share of the calls was answered."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(share * len(ordered)), len(ordered) - 1)]

    @property
    def p50_s(self) -> float:
        """The median latency."""
        return self.latency_s(0.5)


Measured = tuple[str, Slice]
"""A slice and what it is of."""


def together(slices: Sequence[Slice]) -> Slice:
    """Several slices as one."""
    return Slice(
        done=sum(each.done for each in slices),
        seconds=sum(each.seconds for each in slices),
        latencies_s=tuple(latency for each in slices for latency in each.latencies_s),
        cpu_s=sum(each.cpu_s for each in slices),
    )


def ring(floors_of: Mapping[str, Sequence[str]]) -> list[str]:
    """One round: each case with its floors right before and after it; floors between two cases serve both."""
    order: list[str] = []
    for case, floors in floors_of.items():
        for name in (*floors, case, *reversed(floors)):
            if order[-1:] != [name]:
                order.append(name)
    return order


@dataclass(frozen=True, slots=True)
class Goal:
    """What a case must reach."""

    name: str
    case: str
    floors: tuple[str, ...]
    value: Callable[..., float]
    """Of a slice of the case and, for each floor, of the slices around it."""
    at_least: float | None = None
    at_most: float | None = None

    def judged(self, values: Sequence[float]) -> dict[str, Any]:
        """The median and whether it is good enough."""
        middle = statistics.median(values)
        met = middle >= self.at_least if self.at_least is not None else middle <= (self.at_most or 0.0)
        return {
            "value": _rounded(middle),
            "goal": self.at_least if self.at_least is not None else self.at_most,
            "met": met,
            "is": "at least" if self.at_least is not None else "at most",
            "iqr": iqr(values),
            "slices": len(values),
        }


def rate_goal(case: str, floor: str, at_least: float) -> Goal:
    """The rate of a case as a multiple of a floor's."""
    return Goal(f"{case}/{floor}", case, (floor,), lambda ours, theirs: ours.per_s / theirs.per_s, at_least=at_least)


def values(goal: Goal, measured: Sequence[Measured]) -> list[float]:
    """What each slice of the goal's case gives, against the slices of its floors right before and after it."""
    return [
        goal.value(slice_, *(_around(measured, place, floor) for floor in goal.floors))
        for place, (name, slice_) in enumerate(measured)
        if name == goal.case
    ]


def _around(measured: Sequence[Measured], place: int, floor: str) -> Slice:
    before = [slice_ for name, slice_ in measured[:place] if name == floor]
    after = [slice_ for name, slice_ in measured[place + 1 :] if name == floor]
    return together([*before[-1:], *after[:1]])


def iqr(values: Sequence[float]) -> list[float]:
    """The quarter and the three-quarter mark."""
    if len(values) < 2:
        return [_rounded(value) for value in values] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [_rounded(low), _rounded(high)]


def _rounded(value: float) -> float:
    return round(value, 3) if abs(value) < 100 else round(value)


def figures(slices: Sequence[Slice]) -> dict[str, Any]:
    """Medians over the slices of one floor or case."""
    rates = [each.per_s for each in slices]
    found: dict[str, Any] = {"per_s": round(statistics.median(rates)), "per_s_iqr": iqr(rates)}
    for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        found[name] = _rounded(statistics.median(each.latency_s(share) for each in slices) * 1e3)
    if any(each.cpu_s for each in slices):
        found["server_cpu_us"] = round(statistics.median(each.cpu_s / each.done for each in slices) * 1e6)
    return found | {"slices": len(slices)}


@dataclass(slots=True)
class Report:
    """What `build/bench.json` says."""

    machine: dict[str, Any] = field(default_factory=dict)
    floors: dict[str, dict[str, Any]] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, measured: Sequence[Measured], goals: Sequence[Goal]) -> None:
        """Take in some rounds."""
        for name in dict.fromkeys(name for name, _ in measured):
            of = self.floors if name.startswith(FLOOR) else self.cases
            of[name] = figures([slice_ for each, slice_ in measured if each == name])
        for goal in goals:
            found = values(goal, measured)
            if found:
                self.ratios[goal.name] = goal.judged(found)

    def judge(self, goal: Goal, *values: float) -> None:
        """Take in what was not measured in slices."""
        self.ratios[goal.name] = goal.judged(values)

    def as_json(self) -> dict[str, Any]:
        """As it is written."""
        return asdict(self)

    def table(self) -> str:
        """As it is shown."""
        rows: list[Sequence[str]] = [("", "per s", "p50 ms", "p99 ms", "server µs")]
        for name, found in (*self.floors.items(), *self.cases.items()):
            if "per_s" in found:
                shown = (found["per_s"], found["p50_ms"], found["p99_ms"], found.get("server_cpu_us", ""))
                rows.append((name, *map(str, shown)))
        others = {name: found for name, found in self.cases.items() if "per_s" not in found}
        told = [f"{name}: " + ", ".join(f"{key} {value}" for key, value in of.items()) for name, of in others.items()]
        judged: list[Sequence[str]] = [("", "value", "goal", "met", "IQR")]
        for name, found in self.ratios.items():
            low, high = found["iqr"]
            goal = f"{found['is']} {found['goal']}"
            judged.append((name, str(found["value"]), goal, "yes" if found["met"] else "NO", f"{low} to {high}"))
        blocks = [
            [f"{key}: {value}" for key, value in self.machine.items()],
            _aligned(rows) if rows[1:] else [],
            told,
            _aligned(judged) if judged[1:] else [],
        ]
        return "\n\n".join("\n".join(block) for block in blocks if block)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
