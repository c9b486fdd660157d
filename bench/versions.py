"""`versions.txt` of a record: the machine, the commit, and the versions of the variants."""

import os
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> str:
    """The output of a command. Raises `OSError` or `subprocess.CalledProcessError`."""
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def first(path: str, name: str = "") -> str:
    """The text of a file of the kernel, or the value of a field in it."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown"
    if name:
        lines = [line.partition(":")[2] for line in lines if line.startswith(name)]
    return lines[0].strip() if lines else "unknown"


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    try:
        changes = run("git", "status", "--porcelain", "-uno")
        return run("git", "rev-parse", "HEAD") + (" with changes" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def version(variant: str) -> str:
    """A line with the version of a variant."""
    if variant in ("herd", "herd-dedicated"):
        command = ("target/release/herd", "--version")
    else:
        command = (f"bench/variants/{variant}/version",)
    try:
        return run(*command)
    except (OSError, subprocess.CalledProcessError) as error:
        return f"unknown ({error})"


def describe(load: str, cores: str, variants: Iterable[str], left_out: Mapping[str, str]) -> str:
    """The text: a line of `name: value` for each fact. `load` is `/proc/loadavg` at the start."""
    facts = {
        "CPU": first("/proc/cpuinfo", "model name"),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": first("/proc/meminfo", "MemTotal"),
        "kernel": first("/proc/sys/kernel/osrelease"),
        "load average at the start": " ".join(load.split()[:3]),
        "commit": commit(),
        "whose cores": cores,
        **{f"variant {name}": version(name) for name in variants},
        **{f"left out {name}": " ".join(reason.split()) for name, reason in left_out.items()},
    }
    return "".join(f"{name}: {value}\n" for name, value in facts.items())
