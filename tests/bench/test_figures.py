"""Order, ratios and report of the bench."""

import json

from tests.bench.figures import Goal, Report, Slice, iqr, merge, rate_goal, round_order, values


def slice_of(per_s: int, *latencies_s: float) -> Slice:
    return Slice(done=per_s, seconds=1.0, latencies_s=latencies_s or (0.001,))


class TestOrder:
    def test_case_is_between_slices_of_its_floors(self) -> None:
        order = round_order({"hot": ("echo", "sql"), "spread": ("echo",), "check": ("echo",)})
        assert order == ["echo", "sql", "hot", "sql", "echo", "spread", "echo", "check", "echo"]

    def test_case_can_be_the_floor_of_another(self) -> None:
        order = round_order({"spread": ("echo",), "tenants": ("spread",)})
        assert order == ["echo", "spread", "echo", "spread", "tenants", "spread"]

    def test_case_without_floor_is_measured_alone(self) -> None:
        assert round_order({"batch": ()}) == ["batch"]


class TestSlices:
    def test_rate_is_per_second(self) -> None:
        assert Slice(done=300, seconds=0.5, latencies_s=(0.1,)).per_s == 600

    def test_latency_quantiles(self) -> None:
        measured = slice_of(4, 0.4, 0.1, 0.3, 0.2)
        assert (measured.p50_s, measured.latency_s(0.99)) == (0.3, 0.4)

    def test_merged_slices_are_weighted_by_duration(self) -> None:
        joined = merge([Slice(100, 1.0, (0.1,), 0.5), Slice(100, 3.0, (0.2, 0.3), 0.25)])
        assert (joined.per_s, joined.latencies_s, joined.cpu_s) == (50, (0.1, 0.2, 0.3), 0.75)


class TestRatios:
    def test_slice_is_compared_with_neighbouring_floors(self) -> None:
        measured = [
            ("floor", slice_of(999)), ("floor", slice_of(100)), ("case", slice_of(150)), ("floor", slice_of(300)),
            ("case", slice_of(100)), ("floor", slice_of(100)), ("floor", slice_of(999)),
        ]  # fmt: skip
        assert values(rate_goal("case", "floor", 1), measured) == [150 / 200, 100 / 200]

    def test_several_floors_are_passed_in_order(self) -> None:
        goal = Goal("x", "case", ("a", "b"), lambda ours, a, b: (ours.per_s - a.per_s) / b.per_s, at_most=1)
        assert values(goal, [("a", slice_of(10)), ("b", slice_of(5)), ("case", slice_of(30))]) == [4.0]

    def test_iqr_is_first_and_third_quartile(self) -> None:
        assert iqr([5, 1, 4, 2, 3]) == [2, 4]
        assert iqr([0.5]) == [0.5, 0.5]

    def test_minimum_is_met_by_the_median(self) -> None:
        goal = rate_goal("case", "floor", 0.75)
        assert goal.judged([0.5, 0.9, 0.75]) == {
            "value": 0.75, "goal": 0.75, "met": True, "is": "at least", "iqr": [0.625, 0.825], "slices": 3,
        }  # fmt: skip
        assert goal.judged([0.5, 0.9, 0.74])["met"] is False

    def test_maximum_includes_the_goal(self) -> None:
        goal = Goal("p99_ms", "events", (), float, at_most=250)
        assert [goal.judged([value])["met"] for value in (250.0, 250.1)] == [True, False]


class TestReport:
    def test_json_has_floors_cases_and_ratios(self) -> None:
        report = Report()
        measured = [
            ("floor_echo", slice_of(200, 0.01)),
            ("hot", slice_of(100, 0.02)),
            ("floor_echo", slice_of(200, 0.01)),
        ]
        report.add(measured, [rate_goal("hot", "floor_echo", 0.75)])
        content = json.loads(json.dumps(report.as_json()))
        assert set(content) == {"machine", "floors", "cases", "ratios"}
        assert content["floors"]["floor_echo"]["per_s"] == 200
        assert content["cases"]["hot"] == {
            "per_s": 100,
            "per_s_iqr": [100, 100],
            "p50_ms": 20.0,
            "p99_ms": 20.0,
            "slices": 1,
        }
        ratio = content["ratios"]["hot/floor_echo"]
        assert (ratio["value"], ratio["goal"], ratio["met"], ratio["iqr"]) == (0.5, 0.75, False, [0.5, 0.5])

    def test_table_shows_missed_goals(self) -> None:
        report = Report(machine={"cpus": 2}, cases={"up": {"first_s": 9.5}})
        report.judge(Goal("up/first_s", "up", (), float, at_most=8), 9.5)
        lines = report.table().splitlines()
        assert lines[0] == "cpus: 2"
        assert "up: first_s 9.5" in lines
        assert any(line.split()[:2] == ["up/first_s", "9.5"] and " NO " in line for line in lines)

    def test_cpu_time_is_reported_per_call(self) -> None:
        report = Report()
        report.add([("hot", Slice(100, 1.0, (0.1,), cpu_s=0.05))], [])
        assert report.cases["hot"]["server_cpu_us"] == 500
