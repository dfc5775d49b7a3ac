"""Slices of measurement: their order, ratios to neighbouring slices, and the report. No I/O."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

FLOOR: Final = "floor_"
"""Prefix of the names of floors."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The measurement of one case over a short time."""

    done: int
    """Number of calls, or of operations if a call has several."""
    seconds: float
    latencies_s: tuple[float, ...]
    """Latency of each call."""
    cpu_s: float = 0.0
    """CPU time of the server."""

    @property
    def per_s(self) -> float:
        """Operations per second."""
        return self.done / self.seconds

    def latency_s(self, quantile: float) -> float:
        """Return the latency at this quantile, 0.99 for p99."""
        ordered = sorted(self.latencies_s)
        return ordered[min(int(quantile * len(ordered)), len(ordered) - 1)]

    @property
    def p50_s(self) -> float:
        """The median latency."""
        return self.latency_s(0.5)


Measured = tuple[str, Slice]
"""The name of a case or floor, and a slice of it."""


def merge(slices: Sequence[Slice]) -> Slice:
    """Merge several slices into one."""
    return Slice(
        done=sum(each.done for each in slices),
        seconds=sum(each.seconds for each in slices),
        latencies_s=tuple(latency for each in slices for latency in each.latencies_s),
        cpu_s=sum(each.cpu_s for each in slices),
    )


def round_order(floors_of: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the order of one round: each case between its floors; neighbouring cases share a floor."""
    order: list[str] = []
    for case, floors in floors_of.items():
        for name in (*floors, case, *reversed(floors)):
            if order[-1:] != [name]:
                order.append(name)
    return order


@dataclass(frozen=True, slots=True)
class Goal:
    """The minimum or maximum of a figure of a case."""

    name: str
    case: str
    floors: tuple[str, ...]
    value: Callable[..., float]
    """Computes the figure from a slice of the case and the merged slices of each floor around it."""
    at_least: float | None = None
    at_most: float | None = None

    def judged(self, values: Sequence[float]) -> dict[str, Any]:
        """Return the median and whether it meets the goal."""
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
    """Goal for the rate of a case as a multiple of the rate of a floor."""
    return Goal(f"{case}/{floor}", case, (floor,), lambda ours, theirs: ours.per_s / theirs.per_s, at_least=at_least)


def values(goal: Goal, measured: Sequence[Measured]) -> list[float]:
    """Return the figure of each slice of the case, relative to the neighbouring slices of its floors."""
    return [
        goal.value(slice_, *(_neighbours(measured, place, floor) for floor in goal.floors))
        for place, (name, slice_) in enumerate(measured)
        if name == goal.case
    ]


def _neighbours(measured: Sequence[Measured], place: int, floor: str) -> Slice:
    before = [slice_ for name, slice_ in measured[:place] if name == floor]
    after = [slice_ for name, slice_ in measured[place + 1 :] if name == floor]
    return merge([*before[-1:], *after[:1]])


def iqr(values: Sequence[float]) -> list[float]:
    """Return the first and the third quartile."""
    if len(values) < 2:
        return [_rounded(value) for value in values] * 2
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return [_rounded(low), _rounded(high)]


def _rounded(value: float) -> float:
    return round(value, 3) if abs(value) < 100 else round(value)


def figures(slices: Sequence[Slice]) -> dict[str, Any]:
    """Return medians over the slices of one floor or case."""
    rates = [each.per_s for each in slices]
    medians: dict[str, Any] = {"per_s": round(statistics.median(rates)), "per_s_iqr": iqr(rates)}
    for name, quantile in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        medians[name] = _rounded(statistics.median(each.latency_s(quantile) for each in slices) * 1e3)
    if any(each.cpu_s for each in slices):
        medians["server_cpu_us"] = round(statistics.median(each.cpu_s / each.done for each in slices) * 1e6)
    return medians | {"slices": len(slices)}


@dataclass(slots=True)
class Report:
    """The content of `build/bench.json`."""

    machine: dict[str, Any] = field(default_factory=dict)
    floors: dict[str, dict[str, Any]] = field(default_factory=dict)
    cases: dict[str, dict[str, Any]] = field(default_factory=dict)
    ratios: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, measured: Sequence[Measured], goals: Sequence[Goal]) -> None:
        """Add the slices of some rounds and judge the goals."""
        for name in dict.fromkeys(name for name, _ in measured):
            section = self.floors if name.startswith(FLOOR) else self.cases
            section[name] = figures([slice_ for each, slice_ in measured if each == name])
        for goal in goals:
            results = values(goal, measured)
            if results:
                self.ratios[goal.name] = goal.judged(results)

    def judge(self, goal: Goal, *values: float) -> None:
        """Add and judge values that were not measured in slices."""
        self.ratios[goal.name] = goal.judged(values)

    def as_json(self) -> dict[str, Any]:
        """Return the content of bench.json."""
        return asdict(self)

    def table(self) -> str:
        """Return the text of the table."""
        rows: list[Sequence[str]] = [("", "per s", "p50 ms", "p99 ms", "server µs")]
        for name, row in (*self.floors.items(), *self.cases.items()):
            if "per_s" in row:
                shown = (row["per_s"], row["p50_ms"], row["p99_ms"], row.get("server_cpu_us", ""))
                rows.append((name, *map(str, shown)))
        others = {name: row for name, row in self.cases.items() if "per_s" not in row}
        lines = [f"{name}: " + ", ".join(f"{key} {value}" for key, value in of.items()) for name, of in others.items()]
        judged: list[Sequence[str]] = [("", "value", "goal", "met", "IQR")]
        for name, row in self.ratios.items():
            low, high = row["iqr"]
            goal = f"{row['is']} {row['goal']}"
            judged.append((name, str(row["value"]), goal, "yes" if row["met"] else "NO", f"{low} to {high}"))
        blocks = [
            [f"{key}: {value}" for key, value in self.machine.items()],
            _aligned(rows) if rows[1:] else [],
            lines,
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
