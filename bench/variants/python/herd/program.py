"""The command line and the log, the same for every Python variant."""

import argparse
import logging
import os
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from herd import topology
from herd.places import KEY_VARIABLE, Provider
from herd.topology import Server

SPARE_DESCRIPTORS = 256
"""Descriptors that are kept for everything that is not a client."""


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings from the command line."""

    me: Server
    neighbors: list[Server]
    provider: Provider | None
    log: logging.Logger | None
    max_clients: int
    max_records: int
    idle_timeout: float


def fail(what: object, code: int) -> NoReturn:
    """Says why and exits: 1 for a failure, 2 for bad usage or configuration."""
    print(what, file=sys.stderr)
    sys.exit(code)


def read_settings() -> Settings:
    """Reads the command line; exits with code 2 and a reason if it can't be used."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    parser = argparse.ArgumentParser(prog="serve", description="Serve as one server of a herd.", allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", help="which server of the file")
    parser.add_argument("--servers", metavar="FILE", type=Path, required=True, help="the servers of the herd")
    parser.add_argument("--log", metavar="FILE", type=Path, help="log connections and lines there")
    parser.add_argument(
        "--places-url",
        metavar="URL",
        help=f"Google's Nearby Search (legacy) or one like it; the key is in ${KEY_VARIABLE} (default: no places)",
    )
    parser.add_argument("--max-clients", metavar="N", type=positive, default=max(1, limit - SPARE_DESCRIPTORS),
                        help="clients at a time (default: %(default)s)")  # fmt: skip
    parser.add_argument("--max-records", metavar="N", type=positive, default=10_000_000,
                        help="clients whose location is kept (default: %(default)s)")  # fmt: skip
    parser.add_argument("--idle-timeout", metavar="SECONDS", type=positive, default=600,
                        help="a client silent for longer is closed (default: %(default)s)")  # fmt: skip
    flags = parser.parse_args()
    try:
        servers = topology.load(flags.servers)
    except topology.TopologyError as error:
        fail(error, 2)
    if flags.name not in servers:
        fail(f"{flags.servers} names no server {flags.name}; it names {', '.join(servers)}", 2)
    me = servers[flags.name]
    return Settings(
        me,
        [servers[name] for name in me.neighbors],
        provider(flags.places_url) if flags.places_url else None,
        open_log(flags.log) if flags.log else None,
        flags.max_clients,
        flags.max_records,
        flags.idle_timeout,
    )


def positive(text: str) -> int:
    """A positive integer of a flag."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def provider(url: str) -> Provider:
    """The places provider at that address, with the key of the environment."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not url.startswith(("http://", "https://")):
        fail("--places-url must begin with http:// or https://", 2)
    if not key:
        fail(f"--places-url needs an API key in the environment variable {KEY_VARIABLE}", 2)
    return Provider(url, key)


class FileHandler(logging.FileHandler):
    """Leaves it to the event loop to flush: a system call a line would cost more than the line."""

    def emit(self, record: logging.LogRecord) -> None:
        """Formats a record into the file's buffer."""
        try:
            self.stream.write(self.format(record) + "\n")  # type: ignore[union-attr]
        except OSError:
            self.handleError(record)


def open_log(path: Path) -> logging.Logger:
    """A log in that file; `flush` is to be called now and then."""
    try:
        handler = FileHandler(path, encoding="ascii")
    except OSError as error:
        fail(f"can't write the log {path}: {error}", 2)
    handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.Formatter.converter = time.gmtime
    log = logging.getLogger("herd")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    log.propagate = False
    return log


def flush(log: logging.Logger) -> None:
    """Brings to the file what has been logged."""
    for handler in log.handlers:
        handler.flush()


def printable(line: bytes) -> str:
    """A line for the log: bytes outside printable ASCII are escaped, its end is left out."""
    return repr(line.rstrip(b"\n"))[2:-1]


def ready(me: Server) -> None:
    """Prints that the server listens."""
    print(f"{me.name} is ready: clients {me.clients}, peers {me.peers}", flush=True)
