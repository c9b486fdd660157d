#!/usr/bin/env python3
"""Judges records of the comparison: writes the versions and the summary of one, or compares two.

`herd-bench` calls it and passes the scenarios on standard input, as JSON: it alone reads their files. Exit
codes: 0 good, 1 two records differ, 2 a scenario or a record that can't be read.
"""

import argparse
import json
import sys
from pathlib import Path

import comparison
import summary
import versions
from results import Results, read_results
from targets import Scenario, read_scenario


def read_record(folder: Path, scenarios: list[Scenario]) -> Results:
    """The rows of a record. Raises `OSError` or `ValueError`."""
    own_idle = {(s.name, variant): idle for s in scenarios for variant, idle in s.own_idle.items()}
    try:
        return read_results(folder / "results.csv", own_idle)
    except ValueError as error:
        raise ValueError(f"{folder / 'results.csv'}: {error}") from error


def write_summary(folder: Path, scenarios: list[Scenario], *, quick: bool) -> None:
    """Writes `summary.md` from the rows and `versions.txt`. Raises `OSError` or `ValueError`."""
    described = (folder / "versions.txt").read_text(encoding="utf-8")
    page = summary.Summary(folder.resolve().name, quick, described, scenarios, read_record(folder, scenarios))
    (folder / "summary.md").write_text(page.text(), encoding="utf-8")


def main() -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Judge records of the comparison; herd-bench calls this.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="only check the targets of the scenarios")
    command = commands.add_parser("versions", help="write versions.txt of a record")
    command.add_argument("record", type=Path)
    command.add_argument("--load", required=True, help="/proc/loadavg at the start")
    command.add_argument("--cores", required=True, help="the division of the cores, in words")
    command.add_argument("--variant", action="append", default=[], help="a variant that takes part")
    command.add_argument("--left-out", action="append", default=[], help="NAME=REASON of one that does not")
    command = commands.add_parser("summary", help="write summary.md of a record")
    command.add_argument("--quick", action="store_true")
    command.add_argument("record", type=Path)
    command = commands.add_parser("compare", help="compare the ratios of two records")
    command.add_argument("first", type=Path)
    command.add_argument("second", type=Path)
    arguments = parser.parse_args()
    try:
        scenarios = [read_scenario(table) for table in json.load(sys.stdin)]
        if arguments.command == "versions":
            left_out = dict(text.split("=", 1) for text in arguments.left_out)
            text = versions.describe(arguments.load, arguments.cores, arguments.variant, left_out)
            (arguments.record / "versions.txt").write_text(text, encoding="utf-8")
        elif arguments.command == "summary":
            write_summary(arguments.record, scenarios, quick=arguments.quick)
        elif arguments.command == "compare":
            records = [read_record(folder, scenarios) for folder in (arguments.first, arguments.second)]
            compared = comparison.compare(scenarios, records[0], records[1])
            print(comparison.table(compared), end="")
            agree = bool(compared) and all(ratio.agrees for ratio in compared)
            print(comparison.verdict(compared), file=sys.stdout if agree else sys.stderr)
            return 0 if agree else 1
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
