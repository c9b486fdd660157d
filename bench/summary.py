"""`summary.md` of a record: targets, where the thread pool loses and where it wins, void cells, all medians."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from results import Point, Results, Spread
from targets import NOISE, Scenario, Target
from text import one_line, ratio, shown

SHARED = "herd"
DEDICATED = "herd-dedicated"

JUDGES_THE_RUN = ("generator_cores", "late_p99", "flood_reports")
"""Metrics that the tables of figures leave out: they serve to judge a run, not a server."""

COMPARED = (
    ("throughput", "throughput", True),
    ("cpu_per_request", "CPU per request", False),
    ("latency_p50", "p50", False),
    ("latency_p99", "p99", False),
    ("memory_per_idle", "memory per idle client", False),
    ("memory_per_client", "memory per stored client", False),
    ("flood_p50", "flood p50", False),
    ("flood_p99", "flood p99", False),
)
"""Metrics by which variants are compared, their names, and whether more is better."""

INTRODUCTION = """
Servers and load generator share the machine, over loopback. Variants take turns; every \
reply is checked, and a cell with a wrong one is void. A ratio is the median of the \
ratios of each round; beside it are the middle half of these ratios and their range.
"""

LOSSES = """
## Where the thread pool loses

The shared pool's figure as a part of another variant's, where it is worse by more than 3 %; the \
greatest losses first, in brackets the middle half of the rounds.

"""


@dataclass(frozen=True)
class Found:
    """The shared pool's figures divided by another variant's, at the points where the same one wins."""

    scenario: Scenario
    other: str
    metric: str
    points: list[tuple[Point, Spread]]

    @property
    def distance(self) -> float:
        """Distance of the two, at the point where it is largest; infinite if one figure is 0."""
        return max(abs(math.log(spread.median)) if spread.median > 0 else math.inf for _, spread in self.points)

    def line(self) -> str:
        """The line of the list."""
        places = (
            f"{ratio(spread.median)} at {self.scenario.words(point)} ({ratio(spread.lower)} to {ratio(spread.upper)})"
            for point, spread in self.points
        )
        return f"- {self.scenario.name}, {self.other}'s {self.metric}: {'; '.join(places)}\n"


class Summary:
    """The page; `versions` is the text of `versions.txt`."""

    def __init__(self, title: str, quick: bool, versions: str, scenarios: Sequence[Scenario], results: Results) -> None:
        self.title = title
        self.quick = quick
        self.scenarios = scenarios
        self.results = results
        self.machine: list[str] = []
        self.left_out: dict[str, str] = {}
        for line in versions.splitlines():
            name, _, value = line.partition(": ")
            if name.startswith("left out "):
                self.left_out[name.removeprefix("left out ")] = one_line(value)
            elif not name.startswith("variant "):
                self.machine.append(line)

    def text(self) -> str:
        """The whole page."""
        out = f"# {self.title}\n\n"
        if self.quick:
            out += "A quick run: few and short rounds, so only large differences are significant.\n\n"
        else:
            out += "A full run.\n\n"
        out += "".join(f"- {line}\n" for line in self.machine) + INTRODUCTION
        if self.left_out:
            out += "\n## Left out\n\n" + "".join(f"- {name}: {why}\n" for name, why in self.left_out.items())
        return out + self.targets() + self.comparison() + self.voids() + self.figures()

    def targets(self) -> str:
        """The table of all targets, held or missed."""
        out = (
            "\n## Targets\n\n"
            "| scenario | target | at | wanted | measured | middle half | range | dedicated | |\n"
            "|---|---|---|---|---|---|---|---|---|\n"
        )
        for scenario in self.scenarios:
            for target in scenario.targets:
                points = [point for point in scenario.points if target.is_for(point)]
                start = f"| {scenario.name} | {target.what} |"
                absent = self.absent(scenario, target) if points and scenario.rounds else "not in this run"
                if absent:
                    out += f"{start} | | | | | | {absent} |\n"
                    continue
                for point in points:
                    out += f"{start} {scenario.words(point)} |{self.target(scenario, target, point)}\n"
        return out

    def absent(self, scenario: Scenario, target: Target) -> str | None:
        """The first of a target's variants that took no part, with the reason."""
        for name in target.variants:
            reason = self.left_out.get(scenario.variants[name])
            if reason is not None:
                return f"{name} left out: {reason}"
        return None

    def target(self, scenario: Scenario, target: Target, point: Point) -> str:
        """The cells of a target from `wanted` on."""

        def show(value: float) -> str:
            return shown(value, self.results.units.get(target.metric, "")) if target.to is None else ratio(value)

        wanted = f"≤ {show(target.at_most)}" if target.at_least is None else f"≥ {show(target.at_least)}"
        measured = target.spread(self.results, scenario.name, point)
        if not measured:
            voids = ((name, self.results.void.get((scenario.name, name, point))) for name in target.variants)
            reasons = (f"void: {name}: {one_line(why)}" for name, why in voids if why is not None)
            return f" {wanted} | | | | | {next(reasons, 'not measured')} |"
        dedicated = target.spread(self.results, scenario.name, point, DEDICATED) if target.of == SHARED else None
        cells = (
            wanted,
            show(measured.median),
            f"{show(measured.lower)} to {show(measured.upper)}",
            f"{show(measured.least)} to {show(measured.most)} ({measured.count})",
            show(dedicated.median) if dedicated else "",
            target.judge(measured.median),
        )
        return f" {' | '.join(cells)} |"

    def comparison(self) -> str:
        """The shared pool against every other variant: losses and wins."""
        losses, wins, level = [], [], 0
        for scenario in self.scenarios:
            for other, runs in scenario.variants.items():
                # An echo does none of the work; it is compared by a target of its own.
                if other != runs or other in (SHARED, DEDICATED, "echo"):
                    continue
                for metric, name, more_is_better in COMPARED:
                    worse, better = Found(scenario, other, name, []), Found(scenario, other, name, [])
                    for point in scenario.points:
                        spread = self.results.ratios(scenario.name, SHARED, other, metric, point)
                        if not spread or not tells_apart(scenario, point, metric):
                            continue
                        inverse = 1 / spread.median if spread.median else math.inf
                        times = spread.median if more_is_better else inverse
                        if times < 1 - NOISE:
                            worse.points.append((point, spread))
                        elif times > 1 + NOISE:
                            better.points.append((point, spread))
                        else:
                            level += 1
                    losses += [worse] if worse.points else []
                    wins += [better] if better.points else []

        def lines(found: list[Found]) -> str:
            ordered = sorted(found, key=lambda one: one.distance, reverse=True)
            return "".join(one.line() for one in ordered) or "At no measured point.\n"

        level_line = f"{level} comparisons are level, within 3 %.\n"
        return f"{LOSSES}{lines(losses)}\n## Where it wins\n\n{lines(wins)}\n{level_line}"

    def voids(self) -> str:
        """The list of void cells, with the reasons."""
        lines = [
            f"- {scenario.name}, {name}, {scenario.words(point)}: {one_line(reason)}\n"
            for scenario in self.scenarios
            for point in scenario.points
            for name in scenario.variants
            if (reason := self.results.void.get((scenario.name, name, point))) is not None
        ]
        return "\n## Void cells\n\n" + ("".join(lines) or "None.\n")

    def figures(self) -> str:
        """Medians of everything: a table for each metric of each scenario."""
        out = "\n## Figures\n\nMedians of the rounds.\n"
        for scenario in self.scenarios:
            if not scenario.rounds:
                continue
            out += f"\n### {scenario.name}\n\n{scenario.about.strip()}\n"
            for metric in self.results.metrics(scenario.name):
                if metric not in JUDGES_THE_RUN:
                    out += self.table(scenario, metric)
        return out

    def table(self, scenario: Scenario, metric: str) -> str:
        """Medians of a metric, a row for each point and a column for each variant."""
        out = f"\n| {metric} | {' | '.join(scenario.variants)} |\n|---|{'---|' * len(scenario.variants)}\n"
        for point in scenario.points:
            cells = []
            for name in scenario.variants:
                if self.results.is_void(scenario.name, name, point):
                    cells.append("void")
                    continue
                spread = self.results.figures(scenario.name, name, metric, point)
                cells.append(shown(spread.median, self.results.units[metric]) if spread else "")
            if any(cells):
                out += f"| {scenario.words(point)} | {' | '.join(cells)} |\n"
        return out


def tells_apart(scenario: Scenario, point: Point, metric: str) -> bool:
    """Returns whether a metric tells servers apart at a point.

    An open loop's throughput is given, and a closed loop's latency follows from its throughput.
    """
    is_open = point.fraction is not None
    if metric == "throughput":
        return not is_open
    if metric in ("latency_p50", "latency_p99"):
        return is_open and scenario.kind == "load"
    return True
