"""What the bench makes of what it measures."""

import json

from tests.bench.figures import Goal, Report, Slice, iqr, rate_goal, ring, together, values


def slice_of(per_s: int, *latencies_s: float) -> Slice:
    return Slice(done=per_s, seconds=1.0, latencies_s=latencies_s or (0.001,))


class TestOrder:
    def test_each_case_stands_between_slices_of_its_floors(self) -> None:
        order = ring({"hot": ("echo", "sql"), "spread": ("echo",), "check": ("echo",)})
        assert order == ["echo", "sql", "hot", "sql", "echo", "spread", "echo", "check", "echo"]

    def test_a_case_may_be_the_floor_of_another(self) -> None:
        order = ring({"spread": ("echo",), "tenants": ("spread",)})
        assert order == ["echo", "spread", "echo", "spread", "tenants", "spread"]

    def test_a_case_without_a_floor_stands_alone(self) -> None:
        assert ring({"batch": ()}) == ["batch"]


class TestSlices:
    def test_the_rate_is_what_was_done_in_a_second(self) -> None:
        assert Slice(done=300, seconds=0.5, latencies_s=(0.1,)).per_s == 600

    def test_the_latency_of_a_share_is_that_of_the_slowest_call_in_it(self) -> None:
        measured = slice_of(4, 0.4, 0.1, 0.3, 0.2)
        assert (measured.p50_s, measured.latency_s(0.99)) == (0.3, 0.4)

    def test_two_slices_together_weigh_as_much_as_they_lasted(self) -> None:
        joined = together([Slice(100, 1.0, (0.1,), 0.5), Slice(100, 3.0, (0.2, 0.3), 0.25)])
        assert (joined.per_s, joined.latencies_s, joined.cpu_s) == (50, (0.1, 0.2, 0.3), 0.75)


class TestRatios:
    def test_a_slice_is_compared_with_the_floor_right_before_and_right_after_it(self) -> None:
        measured = [
            ("floor", slice_of(999)), ("floor", slice_of(100)), ("case", slice_of(150)), ("floor", slice_of(300)),
            ("case", slice_of(100)), ("floor", slice_of(100)), ("floor", slice_of(999)),
        ]  # fmt: skip
        assert values(rate_goal("case", "floor", 1), measured) == [150 / 200, 100 / 200]

    def test_several_floors_are_handed_over_in_their_order(self) -> None:
        goal = Goal("x", "case", ("a", "b"), lambda ours, a, b: (ours.per_s - a.per_s) / b.per_s, at_most=1)
        assert values(goal, [("a", slice_of(10)), ("b", slice_of(5)), ("case", slice_of(30))]) == [4.0]

    def test_the_spread_goes_from_the_quarter_to_the_three_quarter_mark(self) -> None:
        assert iqr([5, 1, 4, 2, 3]) == [2, 4]
        assert iqr([0.5]) == [0.5, 0.5]

    def test_at_least_is_met_by_the_median(self) -> None:
        goal = rate_goal("case", "floor", 0.75)
        assert goal.judged([0.5, 0.9, 0.75]) == {
            "value": 0.75, "goal": 0.75, "met": True, "is": "at least", "iqr": [0.625, 0.825], "slices": 3,
        }  # fmt: skip
        assert goal.judged([0.5, 0.9, 0.74])["met"] is False

    def test_at_most_is_met_up_to_the_goal(self) -> None:
        goal = Goal("p99_ms", "events", (), float, at_most=250)
        assert [goal.judged([value])["met"] for value in (250.0, 250.1)] == [True, False]


class TestReport:
    def test_it_tells_floors_from_cases_and_names_each_ratio(self) -> None:
        report = Report()
        measured = [
            ("floor_echo", slice_of(200, 0.01)),
            ("hot", slice_of(100, 0.02)),
            ("floor_echo", slice_of(200, 0.01)),
        ]
        report.add(measured, [rate_goal("hot", "floor_echo", 0.75)])
        found = json.loads(json.dumps(report.as_json()))
        assert set(found) == {"machine", "floors", "cases", "ratios"}
        assert found["floors"]["floor_echo"]["per_s"] == 200
        assert found["cases"]["hot"] == {
            "per_s": 100,
            "per_s_iqr": [100, 100],
            "p50_ms": 20.0,
            "p99_ms": 20.0,
            "slices": 1,
        }
        ratio = found["ratios"]["hot/floor_echo"]
        assert (ratio["value"], ratio["goal"], ratio["met"], ratio["iqr"]) == (0.5, 0.75, False, [0.5, 0.5])

    def test_the_table_shows_what_is_missed(self) -> None:
        report = Report(machine={"cpus": 2}, cases={"up": {"first_s": 9.5}})
        report.judge(Goal("up/first_s", "up", (), float, at_most=8), 9.5)
        lines = report.table().splitlines()
        assert lines[0] == "cpus: 2"
        assert "up: first_s 9.5" in lines
        assert any(line.split()[:2] == ["up/first_s", "9.5"] and " NO " in line for line in lines)

    def test_processor_time_is_told_for_each_call(self) -> None:
        report = Report()
        report.add([("hot", Slice(100, 1.0, (0.1,), cpu_s=0.05))], [])
        assert report.cases["hot"]["server_cpu_us"] == 500
