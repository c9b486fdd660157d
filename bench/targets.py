"""The scenarios of the comparison, as `herd-bench` passes them on, and the targets of their figures."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from results import Point, Results, Spread

NOISE = 0.03
"""Largest deviation of level figures on a machine that is shared: 0.97 counts as 1."""


@dataclass(frozen=True)
class Target:
    """A wanted figure: of one variant, or of one against another."""

    what: str
    metric: str
    of: str
    to: str | None = None
    """The variant whose figure `of`'s is divided by; `None` if the target is no ratio."""
    at_least: float | None = None
    at_most: float | None = None
    connections: Sequence[int] = ()
    """The points that the target is for; all, where a list is empty."""
    depth: Sequence[int] = ()
    idle: Sequence[int] = ()
    fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.at_least is None) == (self.at_most is None):
            raise ValueError(f"the target `{self.what}` needs either `at-least` or `at-most`")

    @property
    def variants(self) -> list[str]:
        """The one or two variants that the target is about."""
        return [self.of] if self.to is None else [self.of, self.to]

    def is_for(self, point: Point) -> bool:
        """Returns whether the target applies to a point."""
        filters = ((self.connections, point.connections), (self.depth, point.depth), (self.idle, point.idle))
        return all(not wanted or value in wanted for wanted, value in filters) and (
            # Nothing is the fraction of an unloaded server.
            self.fraction is None or self.fraction == (point.fraction or 0)
        )

    def judge(self, median: float) -> str:
        """`held`, `held (level)` or `**missed**`."""
        # Only a ratio of one means that two are level.
        noise = NOISE if self.to is not None and 1.0 in (self.at_least, self.at_most) else 0.0
        if self.at_least is not None:
            exactly, held = median >= self.at_least, median >= self.at_least - noise
        else:
            exactly, held = median <= self.at_most, median <= self.at_most + noise
        if exactly:
            return "held"
        return "held (level)" if held else "**missed**"

    def spread(self, results: Results, scenario: str, point: Point, of: str | None = None) -> Spread | None:
        """The measured figure; `of` puts another variant in the place of the target's own."""
        of = of or self.of
        if self.to is None:
            return results.figures(scenario, of, self.metric, point)
        return results.ratios(scenario, of, self.to, self.metric, point)


@dataclass(frozen=True)
class Scenario:
    """A scenario, without what only the measuring needs."""

    name: str
    about: str
    kind: str
    rounds: int
    variants: dict[str, str]
    """Names in the results, and the variant that each runs."""
    own_idle: dict[str, int]
    """Idle clients that a variant has at every point."""
    points: list[Point]
    """Every combination of the scenario's lists, in their order."""
    clients: int
    count: int
    targets: list[Target] = field(default_factory=list)

    def words(self, point: Point) -> str:
        """The values that distinguish a point from the others of the scenario."""
        words = []
        is_load = self.kind == "load"
        if is_load:
            words.append(f"{point.connections:,} conn.")
        elif self.kind in ("fill", "catch-up"):
            words.append(f"{self.clients:,} clients")
        elif self.kind == "churn":
            words.append(f"{self.count:,} conn.")
        elif self.kind == "flood" and point.fraction is None:
            words.append("idle")
        if point.fraction is not None:
            words.append(f"{point.fraction * 100:.0f} % of capacity")
        elif is_load:
            words.append(f"depth {point.depth:,}")
        if point.workers is not None:
            words.append(f"{point.workers:,} workers")
        if point.idle:
            words.append(f"{point.idle:,} idle")
        return ", ".join(words)


def read_target(table: Mapping[str, Any]) -> Target:
    """A target of a scenario's file. Raises `ValueError`."""
    try:
        return Target(**{name.replace("-", "_"): value for name, value in table.items()})
    except TypeError as error:
        raise ValueError(f"a target: {error}") from error


def check(table: Mapping[str, Any]) -> None:
    """Checks that the values of a scenario fit each other. Raises `ValueError`."""
    names = [entry["name"] for entry in table["variants"]]
    if not names or not all(table[name] for name in ("connections", "depth", "idle")):
        raise ValueError("an empty list measures nothing")
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two variants are called `{name}`")
    if table["kind"] == "load" and bool(table["fraction"]) != bool(table["slowest-of"]):
        raise ValueError("`fraction` and `slowest-of` need each other")
    if table["kind"] in ("flood", "churn") and not table["count"]:
        raise ValueError("`count` is missing")
    targets = [read_target(target) for target in table["targets"]]
    for name in [*table["slowest-of"], *(name for target in targets for name in target.variants)]:
        if name not in names:
            raise ValueError(f"there is no variant `{name}` among its variants")


def read_scenario(table: Mapping[str, Any]) -> Scenario:
    """A scenario's file, with its name and defaults filled in. Raises `ValueError`."""
    try:
        check(table)
    except ValueError as error:
        raise ValueError(f"{table['name']}: {error}") from error
    variants = table["variants"]
    lists = (
        table["connections"],
        table["depth"],
        # Nothing is the fraction of an unloaded server.
        [part or None for part in table["fraction"]] or [None],
        table["workers"] or [None],
        table["idle"],
    )
    return Scenario(
        name=table["name"],
        about=table["about"],
        kind=table["kind"],
        rounds=table["rounds"],
        variants={entry["name"]: entry["runs"] or entry["name"] for entry in variants},
        own_idle={entry["name"]: entry["idle"] for entry in variants},
        points=[Point(*values) for values in itertools.product(*lists)],
        clients=table["clients"],
        count=table["count"],
        targets=[read_target(target) for target in table["targets"]],
    )
