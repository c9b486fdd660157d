"""Figures as people read them."""

import math


def grouped(value: float) -> str:
    """A number without decimals, its digits in groups: `1,234,567`."""
    number = math.floor(abs(value) + 0.5)
    return f"{'-' if value < 0 and number else ''}{number:,}"


def ratio(value: float) -> str:
    """A ratio with two decimals."""
    return f"{value:.2f}"


def duration(nanos: float) -> str:
    """Nanoseconds with three significant digits: `7.42 µs`, `123 ms`."""
    if nanos < 1e3:
        return f"{nanos:.0f} ns"
    size, unit = next(((s, u) for s, u in ((1e3, "µs"), (1e6, "ms")) if nanos < 999.5 * s), (1e9, "s"))
    value = nanos / size
    decimals = 2 if value < 9.995 else 1 if value < 99.95 else 0
    return f"{value:.{decimals}f} {unit}"


def shown(value: float, unit: str) -> str:
    """A figure with its unit, as `results.csv` has it."""
    if unit == "ns":
        return duration(value)
    if unit == "1/s":
        return f"{grouped(abs(value))} /s"
    if unit == "bytes":
        if abs(value) >= 1 << 20:
            return f"{value / (1 << 20):.1f} MiB"
        return f"{grouped(value)} B"
    if unit == "cores":
        return f"{value * 100:.1f} %"
    return grouped(value)


def one_line(words: str) -> str:
    """A text that fits into a cell of a table."""
    return " ".join(words.split()).replace("|", "\\|")
