"""The rows of a run of the comparison: `results.csv`, and the medians of its cells.

A shared machine is slow for minutes at a time, for every variant. So two variants are compared round by
round, where they ran within seconds of each other: the median of those ratios counts, not the ratio of medians.
"""

import csv
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

ORDER = ("herd", "herd-dedicated", "tokio", "uvloop", "asyncio", "node", "twisted", "redis")
"""Variants from the most to the least like the herd."""

COLUMNS = (
    "scenario", "variant", "round", "connections", "depth", "rate", "workers", "idle", "clients", "metric", "value",
    "unit", "note",
)  # fmt: skip

VOID = "void"
"""The metric of a cell that has failed; its note holds the reason."""

OwnIdle = Mapping[tuple[str, str], int]
"""Idle clients that a variant of a scenario has at every point, by the names of both."""


@dataclass(frozen=True)
class Point:
    """One combination of the values that a scenario lists: the parameters of a cell."""

    connections: int = 1
    depth: int = 1
    """Requests in flight on each connection; 1 in an open loop."""
    fraction: float | None = None
    """Rate of an open loop, as a part of the capacity; `None` for an unloaded server and a closed loop."""
    workers: int | None = None
    idle: int = 0


@dataclass(frozen=True)
class Spread:
    """A median, and how far the values around it lie."""

    median: float
    lower: float
    """Between this and `upper` lies the middle half of the values."""
    upper: float
    least: float
    most: float
    count: int


def spread_of(values: Iterable[float]) -> Spread | None:
    """The median and quartiles, interpolated between two values; `None` without values."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(part: float) -> float:
        place = part * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below)

    return Spread(at(0.5), at(0.25), at(0.75), ordered[0], ordered[-1], len(ordered))


class LeftOut(Exception):
    """There is nothing to draw; the text names the missing figures."""


class Results:
    """All rows of a run."""

    def __init__(self, rows: Iterable[Mapping[str, str]], own_idle: OwnIdle | None = None) -> None:
        self.values: dict[tuple[str, str, str, Point], dict[int, float]] = defaultdict(dict)
        self.void: dict[tuple[str, str, Point], str] = {}
        self.units: dict[str, str] = {}
        for row in rows:
            scenario, variant, metric = row["scenario"], row["variant"], row["metric"]
            point, failure = read_point(row, (own_idle or {}).get((scenario, variant), 0))
            if metric == VOID:
                self.void.setdefault((scenario, variant, point), failure)
            else:
                self.values[scenario, variant, metric, point][int(row["round"])] = float(row["value"])
                self.units[metric] = row["unit"]

    def variants(self, scenario: str, *metrics: str) -> list[str]:
        """The variants that took part in a scenario, void or not, in the order of `ORDER`.

        Raises `LeftOut` if none has a figure of these metrics.
        """
        found = {variant for s, variant, metric, _ in self.values if s == scenario and metric in metrics}
        if not found:
            raise LeftOut(f"no {' or '.join(metrics)} in the scenario {scenario}")
        found |= {variant for s, variant, _ in self.void if s == scenario}
        return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    def points(self, scenario: str) -> list[Point]:
        """All cells of a scenario, of any variant, void or not, in the order of their first row."""
        measured = {point: None for s, _, _, point in self.values if s == scenario}
        return list(measured | {point: None for s, _, point in self.void if s == scenario})

    def metrics(self, scenario: str) -> list[str]:
        """All metrics of a scenario, in the order of their first row."""
        return list(dict.fromkeys(metric for s, _, metric, _ in self.values if s == scenario))

    def is_void(self, scenario: str, variant: str, point: Point) -> bool:
        """Returns whether any round of a cell failed."""
        return (scenario, variant, point) in self.void

    def figures(self, scenario: str, variant: str, metric: str, point: Point) -> Spread | None:
        """The rounds of a cell, unless it is void or missing."""
        return spread_of(self._rounds(scenario, variant, metric, point).values())

    def ratios(self, scenario: str, of: str, to: str, metric: str, point: Point) -> Spread | None:
        """A variant's figure divided by another's, over the rounds that both have."""
        divisors = self._rounds(scenario, to, metric, point)
        rounds = self._rounds(scenario, of, metric, point).items()
        return spread_of(value / divisors[number] for number, value in rounds if divisors.get(number))

    def _rounds(self, scenario: str, variant: str, metric: str, point: Point) -> dict[int, float]:
        if self.is_void(scenario, variant, point):
            return {}
        return self.values.get((scenario, variant, metric, point), {})


def read_point(row: Mapping[str, str], own_idle: int) -> tuple[Point, str]:
    """The cell of a row, and the rest of its note. Raises `ValueError` for a malformed number."""

    def number(name: str) -> int | None:
        return int(row[name]) if row[name] else None

    part = re.match(r"([0-9.]+) of capacity(?:$|: )", row["note"])
    point = Point(
        int(row["connections"]),
        number("depth") or 1,
        float(part[1]) if part else None,
        number("workers"),
        int(row["idle"]) - own_idle,
    )
    return point, row["note"][part.end() if part else 0 :]


def read_results(path: Path, own_idle: OwnIdle | None = None) -> Results:
    """Reads `results.csv`. Raises `OSError` or `ValueError`."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError("other columns than a record of this version has")
        try:
            return Results(whole_rows(reader), own_idle)
        except (ValueError, csv.Error) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error


def whole_rows(reader: csv.DictReader) -> Iterable[dict[str, str]]:
    """The rows of a reader. Raises `ValueError` for one with too few or too many cells."""
    for row in reader:
        if None in row or None in row.values():
            raise ValueError("not a whole row")
        yield row
