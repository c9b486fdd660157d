#!/usr/bin/env python3
"""Draws the charts of a run of the comparison: `charts.py DIR` reads DIR/results.csv.

A point is the median of the rounds; the bar or band around it is their range. A cell that the
run voided (a wrong reply, a server that broke) is marked with a cross, and no median of it is
shown. A chart whose figures are missing is left out, and standard output says so.

The same rows give the same bytes: no date, no random ids. Text stays text, on a white ground, so
that the charts read the same on light and dark pages.

Needs the packages of requirements.txt beside this file. Exit codes: 0 good, 1 nothing could be
drawn, 2 bad usage or an unreadable file.
"""

import argparse
import csv
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator

from results import LeftOut, Point, Results, Spread, read_results


@dataclass(frozen=True)
class Look:
    """Appearance of a variant. Colors are Okabe and Ito's, darkened where text would be faint."""

    label: str
    color: str
    marker: str


LOOKS = {
    "herd": Look("herd (shared)", "#0072B2", "o"),
    "herd-dedicated": Look("herd (dedicated)", "#3388BB", "s"),
    "tokio": Look("tokio", "#D55E00", "^"),
    "uvloop": Look("uvloop", "#A8578A", "D"),
    "asyncio": Look("asyncio", "#00855F", "v"),
    "node": Look("Node.js", "#A87400", "P"),
    "twisted": Look("Twisted", "#6B6B6B", "X"),
    "redis": Look("Redis", "#000000", "*"),
}
RED = "#B00020"
"""The color of void cells."""

GRAY = "#555555"


def look(variant: str) -> Look:
    """The appearance of a variant; an unknown one is gray."""
    return LOOKS.get(variant, Look(variant, GRAY, "."))


def short(value: float) -> str:
    """A number in two to three digits, with k or M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def duration(nanos: float) -> str:
    """A time with its unit."""
    for size, unit in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if nanos >= size:
            return f"{nanos / size:.3g} {unit}"
    return f"{nanos:.3g} ns"


def mebibytes(size: float) -> str:
    """Bytes in MiB."""
    return f"{size / (1 << 20):.3g} MiB"


def new_figure(columns: int, title: str, *, height: float = 4.2, width: float = 9.6) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side."""
    figure, axes = plt.subplots(1, columns, figsize=(width, height), squeeze=False, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure, list(axes[0])


def footnote(figure: Figure, *, has_void: bool, range_shown: str = "bars") -> None:
    """Explains the marks, below the panels."""
    text = f"Medians of the rounds; {range_shown}: their range."
    if has_void:
        text += " ×: void, no valid result."
    figure.supxlabel(text, x=0.01, ha="left", fontsize=8, color=GRAY)


def style_axis(axes: Axes, x_label: str, y_label: str, *, title: str = "") -> None:
    """Labels, grid and frame of a panel."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


MAX_TICKS = 8
"""Ticks on an axis, at most."""


def log_axis(axes: Axes, which: str, ticks: Sequence[float] | None, text: Callable[[float], str]) -> None:
    """Makes an axis logarithmic, with ticks at these values, or at round ones."""
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis = axes.xaxis if which == "x" else axes.yaxis
    if ticks is not None:
        axis.set_major_locator(FixedLocator(ticks))
    else:
        low, high = axis.get_view_interval()
        # The densest of these that leaves room between the ticks.
        for multiples in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 5), (1,)):
            steps = [multiple * 10.0**decade for decade in range(-3, 13) for multiple in multiples]
            inside = [step for step in steps if low <= step <= high]
            if len(inside) <= MAX_TICKS:
                break
        axis.set_major_locator(FixedLocator(inside))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions as near to those wanted as a gap between any two allows; `wanted` rises.

    Neighbors that are too near become a block around their mean (pool adjacent violators).
    """
    blocks: list[list[float]] = []
    for position in wanted:
        blocks.append([position])
        while len(blocks) > 1:
            before, last = blocks[-2], blocks[-1]
            top = statistics.fmean(before) + gap * (len(before) - 1) / 2
            bottom = statistics.fmean(last) - gap * (len(last) - 1) / 2
            if bottom - top >= gap:
                break
            blocks[-2:] = [before + last]
    return [statistics.fmean(block) + gap * (i - (len(block) - 1) / 2) for block in blocks for i in range(len(block))]


def label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names lines at the right edge, at the height of their last point, none over another.

    `ends` are height, text and color.
    """
    if not ends:
        return
    ordered = sorted(ends)
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    heights = [float(to_axes.transform((x, y))[1]) for y, _, _ in ordered]
    for (_, text, color), wanted, height in zip(ordered, heights, spread(heights, 0.062), strict=True):
        axes.annotate(
            text, (1.0, wanted), (1.035, height), xycoords="axes fraction", textcoords="axes fraction",
            color=color, fontsize=9, va="center", annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": color, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip


def mark_void(axes: Axes, places: Sequence[tuple[float, str]]) -> None:
    """Puts a cross at the foot of the panel for every void cell, those at one place side by side."""
    seen: dict[float, int] = defaultdict(int)
    for x, color in places:
        axes.annotate(
            "×", (x, 0), (0, 3 + 9 * seen[x]), xycoords=("data", "axes fraction"), textcoords="offset points",
            color=color, fontsize=12, fontweight="bold", ha="center",
        )  # fmt: skip
        seen[x] += 1


Line = list[tuple[float, Spread]]


def draw_line(axes: Axes, variant: str, line: Line, *, dashed: bool = False) -> None:
    """A variant's medians, with the range of the rounds as bars."""
    if not line:
        return
    shown = look(variant)
    x = [at for at, _ in line]
    y = [figures.median for _, figures in line]
    low = [figures.median - figures.least for _, figures in line]
    high = [figures.most - figures.median for _, figures in line]
    axes.errorbar(
        x, y, yerr=(low, high), color=shown.color, marker=shown.marker, markersize=5, capsize=2, elinewidth=0.8,
        linewidth=2.4 if variant == "herd" else 1.4, linestyle="--" if dashed else "-",
        markerfacecolor="white" if dashed else shown.color, zorder=3 if variant == "herd" else 2,
    )  # fmt: skip


def by_x(
    results: Results,
    scenario: str,
    metric: str,
    axes: Axes,
    position: Callable[[Point], float | None],
) -> bool:
    """Draws a line for each variant over the cells that have a position. Returns whether any is void."""
    cells = sorted(
        ((x, point) for point in results.points(scenario) if (x := position(point)) is not None),
        key=lambda cell: cell[0],
    )
    void: list[tuple[float, str]] = []
    ends = []
    for variant in results.variants(scenario, metric):
        line: Line = []
        for x, point in cells:
            if figures := results.figures(scenario, variant, metric, point):
                line.append((x, figures))
            elif results.is_void(scenario, variant, point):
                void.append((x, look(variant).color))
        draw_line(axes, variant, line)
        if line:
            ends.append((line[-1][1].median, look(variant).label, look(variant).color))
    axes.margins(x=0.03)
    mark_void(axes, void)
    axes.ends = ends  # type: ignore[attr-defined]
    return bool(void)


def finish_lines(axes: Axes, *, from_zero: bool = False) -> None:
    """Names the lines, once the axes have their scales."""
    if from_zero:
        axes.set_ylim(bottom=0)
    label_ends(axes, axes.ends)  # type: ignore[attr-defined]


def capacity_chart(results: Results, metric: str, title: str, y_label: str, text: Callable[[float], str]) -> Figure:
    """A metric of the scenario `capacity` by connections, a panel for each depth."""
    results.variants("capacity", metric)
    depths = sorted({point.depth for point in results.points("capacity") if point.depth})
    figure, panels = new_figure(len(depths), title, width=5.4 * max(len(depths), 1))
    has_void = False
    for axes, depth in zip(panels, depths, strict=True):
        counts = sorted({p.connections for p in results.points("capacity") if p.depth == depth and p.connections})

        def position(point: Point, depth: int = depth) -> int | None:
            return point.connections if point.depth == depth else None

        has_void |= by_x(results, "capacity", metric, axes, position)
        what = "one request at a time" if depth == 1 else f"{depth} requests in flight on each"
        style_axis(axes, "connections", y_label, title=what)
        log_axis(axes, "x", [float(count) for count in counts], lambda value: f"{value:,.0f}")
        log_axis(axes, "y", None, text)
        finish_lines(axes)
    footnote(figure, has_void=has_void)
    return figure


def throughput_chart(results: Results) -> Figure:
    """Throughput by connections."""
    return capacity_chart(results, "throughput", "Throughput: more is better", "requests a second", short)


def cpu_chart(results: Results) -> Figure:
    """CPU per request by connections."""
    return capacity_chart(
        results, "cpu_per_request", "CPU time of the server per request: less is better", "CPU per request", duration
    )


def latency_chart(results: Results) -> Figure:
    """p50 and p99 against the load, a panel for each number of connections."""
    variants = results.variants("latency", "latency_p50", "latency_p99")
    points = [point for point in results.points("latency") if point.fraction is not None]
    counts = sorted({point.connections for point in points if point.connections})
    if not counts:
        raise LeftOut("the scenario latency has no load")
    figure, panels = new_figure(len(counts), "Latency under a fixed load: less is better", width=4.6 * len(counts))
    has_void = False
    for axes, count in zip(panels, counts, strict=True):
        cells = sorted((p for p in points if p.connections == count), key=lambda p: p.fraction or 0)
        void: list[tuple[float, str]] = []
        ends = []
        for variant in variants:
            for metric, name in (("latency_p50", "p50"), ("latency_p99", "p99")):
                line: Line = []
                for point in cells:
                    x = 100 * (point.fraction or 0)
                    if figures := results.figures("latency", variant, metric, point):
                        line.append((x, figures))
                    elif metric == "latency_p50" and results.is_void("latency", variant, point):
                        void.append((x, look(variant).color))
                draw_line(axes, variant, line, dashed=metric == "latency_p50")
                if line:
                    ends.append((line[-1][1].median, f"{look(variant).label} {name}", look(variant).color))
        style_axis(axes, "load, % of capacity", "from the intended time to the reply", title=f"{count:,} connections")
        axes.set_xticks(sorted({100 * (point.fraction or 0) for point in cells}))
        log_axis(axes, "y", None, duration)
        mark_void(axes, void)
        label_ends(axes, ends)
        has_void |= bool(void)
    footnote(figure, has_void=has_void)
    return figure


def memory_chart(results: Results) -> Figure:
    """The server's memory by clients that are connected and say nothing."""
    results.variants("idle", "server_rss")
    figure, (axes,) = new_figure(1, "Memory by idle clients: less is better", width=7.2)
    has_void = by_x(results, "idle", "server_rss", axes, lambda point: point.idle)
    style_axis(axes, "clients that are connected and say nothing", "resident memory of the server")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    finish_lines(axes, from_zero=True)
    # Steps of 1, 2 or 5 MiB, ten times that, and so on, of which eight or fewer are enough.
    highest = axes.get_ylim()[1] / (1 << 20)
    step = next(m * 10**d for d in range(9) for m in (1, 2, 5) if highest <= 8 * m * 10**d)
    axes.yaxis.set_major_locator(MultipleLocator(step << 20))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: mebibytes(value)))
    footnote(figure, has_void=has_void)
    return figure


def workers_chart(results: Results) -> Figure:
    """The pool by its number of workers."""
    results.variants("workers", "throughput")
    counts = sorted({point.workers for point in results.points("workers") if point.workers})
    figure, (axes,) = new_figure(1, "The pool by its number of workers", width=8.2)
    has_void = by_x(results, "workers", "throughput", axes, lambda point: point.workers)
    connections = sorted({point.connections for point in results.points("workers") if point.connections})
    of = f"{' or '.join(map(str, connections))} connections" if connections else ""
    style_axis(axes, "workers", "requests a second", title=of)
    log_axis(axes, "x", [float(count) for count in counts], lambda value: f"{value:,.0f}")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    finish_lines(axes, from_zero=True)
    footnote(figure, has_void=has_void)
    return figure


def draw_rows(
    axes: Axes,
    variants: Sequence[str],
    draw: Callable[[Axes, float, str], bool],
) -> bool:
    """A row for each variant, the first on top. Returns whether any has nothing but a void to show."""
    has_void = False
    for row, variant in enumerate(variants):
        if not draw(axes, row, variant):
            has_void = True
            axes.annotate(
                "× void", (0.0, row), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                color=RED, fontsize=9, va="center",
            )  # fmt: skip
    axes.set_yticks(range(len(variants)), [look(variant).label for variant in variants])
    for tick, variant in zip(axes.get_yticklabels(), variants, strict=True):
        tick.set_color(look(variant).color)
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    return has_void


def flood_chart(results: Results) -> Figure:
    """From a report to the farthest server of a ring, p50 and p99, a panel for each load."""
    variants = results.variants("flood", "flood_p50", "flood_p99")
    points = sorted(results.points("flood"), key=lambda point: point.fraction or 0)
    figure, panels = new_figure(
        len(points), "From a report at one server until the farthest of five shows it: less is better",
        height=0.42 * len(variants) + 1.6, width=4.9 * max(len(points), 2),
    )  # fmt: skip
    has_void = False
    for axes, point in zip(panels, points, strict=True):

        def draw(axes: Axes, row: float, variant: str, point: Point = point) -> bool:
            color = look(variant).color
            found = [results.figures("flood", variant, metric, point) for metric in ("flood_p50", "flood_p99")]
            if None in found:
                return not results.is_void("flood", variant, point)
            middle, late = (figures for figures in found if figures)
            axes.plot([middle.median, late.median], [row, row], color=color, linewidth=2, alpha=0.5)
            for figures, face in ((middle, "white"), (late, color)):
                span = ([figures.median - figures.least], [figures.most - figures.median])
                axes.errorbar(figures.median, row, xerr=span, color=color, marker="o", markerfacecolor=face,
                              markersize=6, elinewidth=0.8, capsize=2)  # fmt: skip
            axes.annotate(duration(middle.median), (middle.median, row), (0, 6), textcoords="offset points",
                          ha="right", fontsize=8, color=color)  # fmt: skip
            axes.annotate(duration(late.median), (late.median, row), (0, 6), textcoords="offset points",
                          ha="left", fontsize=8, color=color)  # fmt: skip
            return True

        load = (
            f"at {100 * point.fraction:.0f} % of the ring's capacity" if point.fraction else "with nothing else to do"
        )
        style_axis(axes, "hollow: p50, filled: p99", "", title=load)
        has_void |= draw_rows(axes, variants, draw)
        axes.margins(x=0.15)
        log_axis(axes, "x", None, duration)
    footnote(figure, has_void=has_void)
    return figure


MAIN_CONNECTIONS = 64
"""Connections of the main chart: many clients, few enough for one machine to serve with ease."""


def main_chart(results: Results) -> Figure:
    """Throughput and CPU per request of every variant at one glance."""
    variants = results.variants("capacity", "throughput", "cpu_per_request")
    cells = [p for p in results.points("capacity") if p.connections == MAIN_CONNECTIONS and p.depth == 1]
    if not cells:
        raise LeftOut(f"no cell of {MAIN_CONNECTIONS} connections and depth 1 in the scenario capacity")
    point = cells[0]

    def rank(variant: str) -> float:
        figures = results.figures("capacity", variant, "throughput", point)
        return -figures.median if figures else 0

    variants = sorted(variants, key=rank)
    figure, panels = new_figure(
        2, f"{MAIN_CONNECTIONS} clients, each with one request at a time", height=0.4 * len(variants) + 1.5
    )
    has_void = False
    for axes, metric, what, text in (
        (panels[0], "throughput", "requests a second (more is better)", short),
        (panels[1], "cpu_per_request", "CPU time of the server per request (less is better)", duration),
    ):

        def draw(
            axes: Axes, row: float, variant: str, metric: str = metric, text: Callable[[float], str] = text
        ) -> bool:
            figures = results.figures("capacity", variant, metric, point)
            if not figures:
                return not results.is_void("capacity", variant, point)
            span = ([figures.median - figures.least], [figures.most - figures.median])
            color = look(variant).color
            axes.barh(row, figures.median, height=0.62, color=color, alpha=1 if variant.startswith("herd") else 0.55)
            axes.errorbar(figures.median, row, xerr=span, color="#222222", elinewidth=1, capsize=2)
            axes.annotate(text(figures.median), (figures.most, row), (5, 0), textcoords="offset points", va="center",
                          fontsize=9, color="#222222")  # fmt: skip
            return True

        style_axis(axes, "", "", title=what)
        has_void |= draw_rows(axes, variants, draw)
        axes.margins(x=0.16)
        axes.autoscale_view()
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _, text=text: text(value) if value else "0"))
    footnote(figure, has_void=has_void)
    return figure


CHARTS: dict[str, Callable[[Results], Figure]] = {
    "main.svg": main_chart,
    "throughput.svg": throughput_chart,
    "cpu.svg": cpu_chart,
    "latency.svg": latency_chart,
    "memory.svg": memory_chart,
    "flood.svg": flood_chart,
    "workers.svg": workers_chart,
}


def main() -> int:
    """Draws every chart that the rows allow; the exit code."""
    parser = argparse.ArgumentParser(description="Draw the charts of a run of the comparison.", allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR", type=Path, help="holds results.csv; the charts are written there")
    directory = parser.parse_args().directory
    path = directory / "results.csv"
    try:
        results = read_results(path)
    except (OSError, ValueError, csv.Error) as error:
        sys.stderr.write(f"{path}: can't be read: {error}\n")
        return 2
    mpl.rcParams.update(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "herd",
            "font.family": "sans-serif",
            "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
            "font.size": 10,
            "savefig.facecolor": "white",
            "axes.edgecolor": GRAY,
            "xtick.color": "#222222",
            "ytick.color": "#222222",
        }
    )
    drawn = 0
    for name, draw in CHARTS.items():
        try:
            figure = draw(results)
        except LeftOut as reason:
            sys.stdout.write(f"{name} left out: {reason}\n")
            continue
        try:
            figure.savefig(directory / name, metadata={"Date": None, "Creator": None})
        except OSError as error:
            sys.stderr.write(f"{directory / name}: can't be written: {error}\n")
            return 2
        plt.close(figure)
        sys.stdout.write(f"{name} drawn\n")
        drawn += 1
    return 0 if drawn else 1


if __name__ == "__main__":
    sys.exit(main())
