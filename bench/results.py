"""The rows of a run of the comparison: `results.csv`, and the medians of its cells."""

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

ORDER = ("herd", "herd-dedicated", "tokio", "uvloop", "asyncio", "node", "twisted", "redis")
"""Variants from the most to the least like the herd."""

COLUMNS = ("scenario", "variant", "connections", "depth", "rate", "workers", "idle", "metric", "value", "note")


@dataclass(frozen=True)
class Point:
    """What tells the cells of a scenario apart, as `results.csv` has it; `None` where it is empty."""

    connections: int | None
    depth: int | None
    workers: int | None
    idle: int | None
    fraction: float | None
    """The load as a part of the capacity, from the note."""


@dataclass(frozen=True)
class Figures:
    """The rounds of one metric in one cell."""

    median: float
    low: float
    high: float


class LeftOut(Exception):
    """There is nothing to draw; the text says what is missing."""


class Results:
    """All rows of a run."""

    def __init__(self, rows: Iterable[dict[str, str]]) -> None:
        self.values: dict[tuple[str, str, str, Point], list[float]] = defaultdict(list)
        self.void: set[tuple[str, str, Point]] = set()
        failed = []
        loads: dict[tuple[str, int | None], dict[str, float]] = defaultdict(dict)
        for row in rows:
            point = read_point(row)
            if row["metric"] == "void":
                failed.append((row, point))
                continue
            self.values[row["scenario"], row["variant"], row["metric"], point].append(float(row["value"]))
            if point.fraction is not None:
                loads[row["scenario"], point.connections][row["rate"]] = point.fraction
        for row, point in failed:
            if point.fraction is not None:
                self.void.add((row["scenario"], row["variant"], point))
                continue
            # Where the note of a void row tells the failure alone, its load is known by the others' rate.
            known = loads[row["scenario"], point.connections]
            loaded = {fraction for rate, fraction in known.items() if bool(rate) == bool(row["rate"])}
            fraction = known.get(row["rate"], loaded.pop() if len(loaded) == 1 else None)
            self.void.add((row["scenario"], row["variant"], replace(point, fraction=fraction)))

    def variants(self, scenario: str, *metrics: str) -> list[str]:
        """Who took part in a scenario, void or not, in the order of `ORDER`.

        Raises `LeftOut` if nobody has a figure of these metrics.
        """
        found = {variant for s, variant, metric, _ in self.values if s == scenario and metric in metrics}
        if not found:
            raise LeftOut(f"no {' or '.join(metrics)} in the scenario {scenario}")
        found |= {variant for s, variant, _ in self.void if s == scenario}
        return sorted(found, key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))

    def points(self, scenario: str) -> set[Point]:
        """All cells of a scenario, of any variant, void or not."""
        measured = {point for s, _, _, point in self.values if s == scenario}
        return measured | {point for s, _, point in self.void if s == scenario}

    def is_void(self, scenario: str, variant: str, point: Point) -> bool:
        """Whether any round of a cell failed."""
        return (scenario, variant, point) in self.void

    def figures(self, scenario: str, variant: str, metric: str, point: Point) -> Figures | None:
        """The rounds of a cell, unless it is void or missing."""
        values = self.values.get((scenario, variant, metric, point))
        if not values or self.is_void(scenario, variant, point):
            return None
        return Figures(statistics.median(values), min(values), max(values))


def read_point(row: dict[str, str]) -> Point:
    """The cell of a row. Raises `ValueError` for a number that is none."""

    def number(name: str) -> int | None:
        return int(row[name]) if row[name] else None

    part = re.match(r"([0-9.]+) of capacity(?:$|: )", row["note"])
    fraction = float(part[1]) if part else None
    return Point(number("connections"), number("depth"), number("workers"), number("idle"), fraction)


def read_results(path: Path) -> Results:
    """Reads `results.csv`. Raises `OSError` or `ValueError`."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"it has no column {', '.join(missing)}")
        return Results(reader)
