"""Tests of the programs that judge records: `python3 -m unittest discover bench`; `cargo test` runs them, too."""

import csv
import io
import json
import subprocess
import sys
import tempfile
import unittest
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from comparison import compare, table, verdict
from results import COLUMNS, LeftOut, Point, Results, read_results, spread_of
from summary import Summary
from targets import Target, read_scenario
from text import duration, one_line, shown

Rounds = Iterable[float]


def entry(name: str, **changes: object) -> dict[str, Any]:
    """A variant of a scenario, as herd-bench passes it on."""
    return {"name": name, "runs": None, "idle": 0, **changes}


def scenario_table(**changes: object) -> dict[str, Any]:
    """A scenario, as herd-bench passes it on."""
    lists = {"connections": [8, 64], "depth": [1], "fraction": [], "workers": [], "idle": [0], "slowest-of": []}
    rest = {"name": "test", "about": "A test.", "kind": "load", "rounds": 3, "clients": 10000, "count": 7}
    return {**rest, **lists, "variants": [entry("herd")], "targets": [], **changes}


def row(variant: str, metric: str, value: float, **changes: object) -> dict[str, str]:
    """A row of results.csv."""
    unit = "1/s" if metric == "throughput" else "ns"
    known = {"scenario": "test", "round": 1, "connections": 8, "depth": 1, "idle": 0, "unit": unit, **changes}
    return {**dict.fromkeys(COLUMNS, ""), **{k: str(v) for k, v in known.items()}, "variant": variant,
            "metric": metric, "value": str(value)}  # fmt: skip


def rounds(variant: str, metric: str, values: Rounds, **changes: object) -> list[dict[str, str]]:
    """A row for each round of a cell."""
    return [row(variant, metric, value, round=number, **changes) for number, value in enumerate(values, 1)]


class ResultsTest(unittest.TestCase):
    """Rows and their medians."""

    def test_medians_lie_in_the_middle(self) -> None:
        """Quartiles lie between values, in proportion."""
        self.assertIsNone(spread_of([]))
        spread = spread_of([4.0, 1.0, 2.0, 3.0])
        self.assertEqual(
            (spread.median, spread.lower, spread.upper, spread.least, spread.most, spread.count),
            (2.5, 1.75, 3.25, 1.0, 4.0, 4),
        )

    def test_rounds_are_paired(self) -> None:
        """The second round was slow for both; the fourth is one's alone; the fifth has a zero."""
        rows = rounds("a", "throughput", [110, 55, 120, 1, 1])
        rows += [r for r in rounds("b", "throughput", [100, 50, 100, 7, 0]) if r["round"] != "4"]
        spread = Results(rows).ratios("test", "a", "b", "throughput", Point(8))
        self.assertEqual((spread.count, spread.most), (3, 1.2))
        self.assertAlmostEqual(spread.median, 1.1)
        self.assertIsNone(Results(rows).ratios("test", "a", "c", "throughput", Point(8)))

    def test_points_are_read_from_rows(self) -> None:
        """A load is in the note, and an open loop has no depth."""
        rows = [
            row("herd", "latency_p50", 5, depth="", rate=70, note="0.5 of capacity"),
            row("herd", "void", 1, depth="", rate=70, note="0.75 of capacity: a wrong, reply"),
            row("beside", "throughput", 5, idle=8009, workers=4),
        ]
        results = Results(rows, {("test", "beside"): 8000})
        self.assertEqual(results.points("test"), [Point(8, 1, 0.5), Point(8, workers=4, idle=9), Point(8, 1, 0.75)])
        self.assertEqual(results.void["test", "herd", Point(8, 1, 0.75)], "a wrong, reply")
        self.assertEqual(results.variants("test", "throughput", "latency_p50"), ["herd", "beside"])
        self.assertIsNone(results.figures("test", "herd", "latency_p50", Point(8, 1, 0.75)))
        with self.assertRaises(LeftOut):
            results.variants("test", "no_metric")

    def test_malformed_files_are_rejected(self) -> None:
        """Other columns, a row that is cut off, a word in the place of a number."""
        good = ",".join(COLUMNS) + "\ntest,herd,1,8,1,,,0,10000,throughput,5,1/s,\n"
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "results.csv")
            path.write_text(good, encoding="utf-8")
            self.assertEqual(len(read_results(path).values), 1)
            for text, complaint in (
                (good.replace("unit,", ""), "columns"),
                (good + "test,herd,1,8\n", "line 3: not a whole row"),
                (good.replace(",8,", ",eight,"), "line 2: "),
            ):
                path.write_text(text, encoding="utf-8")
                with self.assertRaisesRegex(ValueError, complaint):
                    read_results(path)


class TargetTest(unittest.TestCase):
    """Targets, held or missed."""

    def test_figures_are_judged(self) -> None:
        """Only a ratio of one may be missed by the noise of the machine."""
        for to, least, most, median, expected in (
            ("tokio", 1.0, None, 1.0, "held"),
            ("tokio", 1.0, None, 0.98, "held (level)"),
            ("tokio", 1.0, None, 0.96, "**missed**"),
            ("tokio", 1.1, None, 1.09, "**missed**"),
            ("tokio", None, 1.0, 1.02, "held (level)"),
            ("tokio", None, 1.0, 1.04, "**missed**"),
            (None, None, 1.0, 1.02, "**missed**"),
            (None, 40000.0, None, 41e3, "held"),
        ):
            target = Target("x", "throughput", "herd", to, least, most)
            self.assertEqual(target.judge(median), expected, f"{target}: {median}")

    def test_points_are_chosen(self) -> None:
        """A target applies to all points, but for the lists it has."""

        def chosen(**filters: object) -> bool:
            return Target("x", "m", "herd", at_least=1.0, **filters).is_for(Point(8, 16))

        self.assertTrue(chosen() and chosen(connections=[8, 64], depth=[16]) and chosen(fraction=0.0))
        self.assertFalse(chosen(depth=[1]) or chosen(fraction=0.5) or chosen(idle=[9]))

    def test_faults_are_found(self) -> None:
        """A target without a bound or with two, of a variant that takes no part, with an unknown key."""
        good = {"what": "x", "metric": "throughput", "of": "herd", "at-least": 1.0}
        for changes, complaint in (
            ({}, None),
            ({"at-most": 2.0}, "either"),
            ({"of": "tokio"}, "no variant `tokio`"),
            ({"to": "tokio"}, "no variant `tokio`"),
            ({"dept": [1]}, "dept"),
        ):
            scenario = scenario_table(variants=[entry("herd")], targets=[{**good, **changes}])
            if complaint is None:
                read_scenario(scenario)
                continue
            with self.assertRaisesRegex(ValueError, complaint):
                read_scenario(scenario)

    def test_values_fit_each_other(self) -> None:
        """A scenario with values that do not is rejected, by its name."""
        two = [entry("herd"), entry("herd")]
        for changes, complaint in (
            ({"connections": []}, "empty list"),
            ({"variants": []}, "empty list"),
            ({"variants": two}, "two variants"),
            ({"fraction": [0.5]}, "need each other"),
            ({"slowest-of": ["herd"]}, "need each other"),
            ({"fraction": [0.5], "slowest-of": ["tokio"]}, "no variant `tokio`"),
            ({"kind": "churn", "count": 0}, "`count` is missing"),
        ):
            with self.assertRaisesRegex(ValueError, f"^test: .*{complaint}"):
                read_scenario(scenario_table(**changes))

    def test_points_have_words(self) -> None:
        """The words for a point depend on the kind of its scenario."""
        for kind, point, expected in (
            ("load", Point(1000, 16, idle=4000), "1,000 conn., depth 16, 4,000 idle"),
            ("load", Point(8, 1, 0.25, workers=2), "8 conn., 25 % of capacity, 2 workers"),
            ("fill", Point(), "10,000 clients"),
            ("flood", Point(), "idle"),
            ("flood", Point(fraction=0.5), "50 % of capacity"),
            ("churn", Point(), "7 conn."),
            ("full", Point(), ""),
        ):
            self.assertEqual(read_scenario(scenario_table(kind=kind)).words(point), expected)


class TextTest(unittest.TestCase):
    """Figures as people read them."""

    def test_figures_have_their_units(self) -> None:
        """Three digits or so, rounded, in the unit that fits."""
        for value, unit, expected in (
            (7_421.0, "ns", "7.42 µs"),
            (123_456.4, "1/s", "123,456 /s"),
            (0.5, "1/s", "1 /s"),
            (265.0, "bytes", "265 B"),
            (-4096.0, "bytes", "-4,096 B"),
            (210.0 * 1_048_576.0, "bytes", "210.0 MiB"),
            (0.042, "cores", "4.2 %"),
            (3.0, "", "3"),
            (-0.2, "", "0"),
        ):
            self.assertEqual(shown(value, unit), expected)

    def test_durations_change_their_unit_in_time(self) -> None:
        """None has four digits."""
        for nanos, expected in (
            (999, "999 ns"),
            (9_994, "9.99 µs"),
            (9_996, "10.0 µs"),
            (99_960, "100 µs"),
            (999_600, "1.00 ms"),
            (1.5e9, "1.50 s"),
        ):
            self.assertEqual(duration(nanos), expected)
        self.assertEqual(one_line("a\n  b | c"), "a b \\| c")


class SummaryTest(unittest.TestCase):
    """A page made from rows that are known."""

    def setUp(self) -> None:
        """Two points, four variants; Node.js fails at one of them, Twisted takes no part."""
        throughput = {"metric": "throughput", "of": "herd"}
        targets = [
            {**throughput, "what": "throughput against tokio", "to": "tokio", "at-least": 1.1},
            {**throughput, "what": "throughput against node", "to": "node", "at-least": 1.5, "connections": [64]},
            {**throughput, "what": "throughput against twisted", "to": "twisted", "at-least": 1.5},
            {**throughput, "what": "throughput at depth 9", "at-least": 1.5, "depth": [9]},
            {"what": "latency", "metric": "latency_p99", "of": "herd", "at-most": 200e3, "connections": [8]},
        ]
        variants = [entry(name) for name in ("herd", "herd-dedicated", "tokio", "node", "twisted")]
        self.table = scenario_table(variants=variants, targets=targets)
        self.rows = []
        for connections, name, values in (
            (8, "herd", [100, 60, 115]),
            (8, "herd-dedicated", [50, 25, 50]),
            (8, "tokio", [100, 50, 100]),
            (64, "herd", [90, 80, 45]),
            (64, "tokio", [100, 100, 50]),
        ):
            self.rows += rounds(name, "throughput", [value * 1e3 for value in values], connections=connections)
            self.rows += rounds(name, "latency_p99", [250e3] * 3, connections=connections)
        self.rows += [row("node", "void", 1, connections=64, note="a wrong reply got `x|y`")]

    def test_a_page_has_targets_losses_and_voids(self) -> None:
        """Every part of the page, from the rows."""
        versions = "cores: 2\nvariant herd: herd 0.1.0\nleft out twisted: no Python\n"
        text = Summary("test", False, versions, [read_scenario(self.table)], Results(self.rows)).text()
        for expected in (
            "# test\n\nA full run.\n\n- cores: 2\n",
            "- twisted: no Python\n",
            "| test | throughput against tokio | 8 conn., depth 1 | ≥ 1.10 | 1.15 | 1.07 to 1.17 | 1.00 to 1.20 (3) "
            "| 0.50 | held |\n",
            "| test | throughput against tokio | 64 conn., depth 1 | ≥ 1.10 | 0.90 | 0.85 to 0.90 | 0.80 to 0.90 (3) "
            "|  | **missed** |\n",
            "| test | throughput against node | 64 conn., depth 1 | ≥ 1.50 | | | | | void: node: a wrong reply got "
            "`x\\|y` |\n",
            "| test | throughput against twisted | | | | | | | twisted left out: no Python |\n",
            "| test | throughput at depth 9 | | | | | | | not in this run |\n",
            "| test | latency | 8 conn., depth 1 | ≤ 200 µs | 250 µs |",
            "- test, tokio's throughput: 0.90 at 64 conn., depth 1 (0.85 to 0.90)\n",
            "- test, tokio's throughput: 1.15 at 8 conn., depth 1 (1.07 to 1.17)\n",
            "0 comparisons are level",
            "- test, node, 64 conn., depth 1: a wrong reply",
            "| throughput | herd | herd-dedicated | tokio | node | twisted |\n",
            "| 64 conn., depth 1 | 80,000 /s |  | 100,000 /s | void |  |\n",
        ):
            self.assertIn(expected, text)
        self.assertNotIn("herd 0.1.0", text)
        self.assertLess(text.index("loses"), text.index("0.90 at 64"))
        self.assertLess(text.index("0.90 at 64"), text.index("it wins"))

    def test_the_program_writes_the_page(self) -> None:
        """The command line, with the scenarios on standard input."""
        with tempfile.TemporaryDirectory() as folder:
            out = io.StringIO()
            writer = csv.DictWriter(out, COLUMNS)
            writer.writeheader()
            writer.writerows(self.rows)
            Path(folder, "results.csv").write_text(out.getvalue(), encoding="utf-8")
            Path(folder, "versions.txt").write_text("cores: 2\n", encoding="utf-8")
            program = str(Path(__file__).parent / "judge.py")

            def judge(*arguments: str, scenarios: object) -> subprocess.CompletedProcess[str]:
                return subprocess.run(
                    [sys.executable, "-B", program, *arguments],
                    input=json.dumps(scenarios), capture_output=True, text=True, check=False,
                )  # fmt: skip

            self.assertEqual(judge("summary", "--quick", folder, scenarios=[self.table]).returncode, 0)
            self.assertIn("A quick run", Path(folder, "summary.md").read_text(encoding="utf-8"))
            same = judge("compare", folder, folder, scenarios=[self.table])
            self.assertEqual((same.returncode, "2 of 2 ratios agree" in same.stdout), (0, True), same)
            none = judge("compare", folder, folder, scenarios=[])
            self.assertEqual((none.returncode, "0 of 0 ratios" in none.stderr), (1, True), none)
            made = judge("versions", folder, "--load=1 2 3 4/5", "--cores=one", "--variant=no-such",
                         "--left-out=node=no\nNode = 20", scenarios=[])  # fmt: skip
            self.assertEqual(made.returncode, 0, made)
            versions = Path(folder, "versions.txt").read_text(encoding="utf-8")
            self.assertIn("load average at the start: 1 2 3\n", versions)
            self.assertIn("whose cores: one\nvariant no-such: unknown (", versions)
            self.assertTrue(versions.endswith("left out node: no Node = 20\n"), versions)
            missing = judge("summary", folder + "/no-such", scenarios=[])
            self.assertEqual((missing.returncode, "no-such" in missing.stderr), (2, True), missing)


class ComparisonTest(unittest.TestCase):
    """Two records."""

    def setUp(self) -> None:
        """A ratio at two points, asked for by two targets."""
        target = {"what": "p99 beside", "metric": "latency_p99", "of": "beside", "to": "herd", "at-most": 1.1}
        table = scenario_table(
            variants=[entry("herd"), entry("beside", runs="herd", idle=9)],
            fraction=[0.5],
            **{"slowest-of": ["herd"]},
            targets=[{**target, "connections": [8]}, target],
        )
        self.scenarios = [read_scenario(table)]

    def record(self, ratios: list[list[float]], rate: int) -> Results:
        """A record in which the second variant has these multiples of the first one's figure; 0 is void."""
        rows = []
        for connections, values in zip((8, 64), ratios, strict=True):
            cell = {"connections": connections, "depth": "", "rate": rate, "note": "0.5 of capacity"}
            for number, value in enumerate(values, 1):
                rows.append(row("herd", "latency_p99", 1e6 * number, round=number, **cell))
                beside = {**cell, "round": number, "idle": 9}
                if value:
                    rows.append(row("beside", "latency_p99", value * 1e6 * number, **beside))
                else:
                    rows.append(row("beside", "void", 1, **{**beside, "note": "0.5 of capacity: wrong"}))
        return Results(rows, {("test", "beside"): 9})

    def test_ratios_are_compared_by_their_medians(self) -> None:
        """The rates of an open loop are each run's own."""
        first = self.record([[1.0, 9.0, 2.0], [1.0, 1.0, 1.0]], 100)
        second = self.record([[2.1, 0.1, 2.1], [1.2, 1.2, 1.2]], 200)
        compared = compare(self.scenarios, first, second)
        self.assertEqual([one.agrees for one in compared], [True, False])
        self.assertEqual(verdict(compared), "1 of 2 ratios agree within 10 %")
        text = table(compared)
        for expected in (
            "| test | p99 beside | 8 conn., 50 % of capacity | 2.00 | 1.50 to 5.50 | 2.10 | 1.10 to 2.10 | 1.05 | |\n",
            "| test | p99 beside | 64 conn., 50 % of capacity | 1.00 | 1.00 to 1.00 | 1.20 | 1.20 to 1.20 | 1.20 "
            "| **apart** |\n",
        ):
            self.assertIn(expected, text)

    def test_a_ratio_that_one_record_lacks_does_not_agree(self) -> None:
        """One void round makes a cell void."""
        first = self.record([[1.0] * 3, [1.0] * 3], 100)
        second = self.record([[1.0] * 3, [1.0, 0.0, 1.0]], 100)
        compared = compare(self.scenarios, first, second)
        self.assertEqual([one.agrees for one in compared], [True, False])
        self.assertIn("| none |  | ", table(compared))
        self.assertEqual(compare(self.scenarios, Results([]), Results([])), [])


if __name__ == "__main__":
    unittest.main()
