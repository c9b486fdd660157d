"""Compares two records by the ratios that the scenarios set targets for.

Each ratio is the median over the rounds of its run. Figures by themselves depend on the load of the machine,
so they are left out.
"""

from dataclasses import dataclass

from results import Results, Spread
from targets import Scenario
from text import ratio

APART = 1.10
"""Highest quotient of two ratios that agree."""


@dataclass(frozen=True)
class Compared:
    """A ratio of two records."""

    scenario: str
    what: str
    point: str
    first: Spread | None
    second: Spread | None

    @property
    def quotient(self) -> float | None:
        """The second ratio divided by the first; `None` if a record lacks it."""
        if not self.first or not self.second or not self.first.median:
            return None
        return self.second.median / self.first.median

    @property
    def agrees(self) -> bool:
        """`True` if both records have the ratio, and about the same."""
        return self.quotient is not None and 1 / APART <= self.quotient <= APART


def compare(scenarios: list[Scenario], first: Results, second: Results) -> list[Compared]:
    """Every ratio that is the subject of a target and that at least one record has, once."""
    compared = []
    for scenario in scenarios:
        points = list(dict.fromkeys(first.points(scenario.name) + second.points(scenario.name)))
        seen = set()
        for target in scenario.targets:
            for point in points:
                key = (target.metric, target.of, target.to, point)
                if target.to is None or not target.is_for(point) or key in seen:
                    continue
                seen.add(key)
                spreads = [target.spread(results, scenario.name, point) for results in (first, second)]
                if any(spreads):
                    compared.append(Compared(scenario.name, target.what, scenario.words(point), *spreads))
    return compared


def table(compared: list[Compared]) -> str:
    """The ratios as a table of Markdown."""
    out = (
        "| scenario | ratio | at | first | middle half | second | middle half | quotient | |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    for one in compared:
        cells = [one.scenario, one.what, one.point]
        for spread in (one.first, one.second):
            if spread:
                cells += [ratio(spread.median), f"{ratio(spread.lower)} to {ratio(spread.upper)}"]
            else:
                cells += ["none", ""]
        cells.append("" if one.quotient is None else ratio(one.quotient))
        out += f"| {' | '.join(cells)} | {'' if one.agrees else '**apart** '}|\n"
    return out


def verdict(compared: list[Compared]) -> str:
    """The number of ratios that agree, in words."""
    agree = sum(one.agrees for one in compared)
    return f"{agree} of {len(compared)} ratios agree within {(APART - 1) * 100:.0f} %"
