"""The client protocol's grammar, and what one server knows of the clients.

No input, no output and no event loop: lines go in, replies come out, so that asyncio and Twisted
run the same code. The locations are in memory only, as in the report's prototype.
"""

import re
import time
from dataclasses import dataclass

MAX_LINE = 4096
"""Bytes that a line may have without its ending."""

NANOS = 10**9
MAX_AHEAD = 300 * NANOS
"""Longest time by which a client's time may be ahead of this server's clock; past this the report is invalid."""

MAX_NUMBER = 40
"""Bytes that a number field may have."""

ZERO_RESULTS = b'{"html_attributions":[],\n"results":[],\n"status":"ZERO_RESULTS"}'

# Patterns of bytes: \s is ASCII white space alone, \d the ten digits. Ranges are judged by the
# digits, since a float would round 90.00000000000000000001 into range.
LOCATION = rb"""
    [+-] 0* (?: [0-8]?\d (?:\.\d+)? | 90 (?:\.0+)? )
    [+-] 0* (?: (?:1[0-7]\d|\d?\d) (?:\.\d+)? | 180 (?:\.0+)? )
"""
TIME = rb"(\d+) (?: \.(\d{1,9}) )?"

match_iamat = re.compile(
    rb"\s* IAMAT \s+ (\S{1,255}) \s+ (" + LOCATION + rb") \s+ (" + TIME + rb") \s*", re.VERBOSE
).fullmatch
match_whatsat = re.compile(
    rb"""
    \s* WHATSAT \s+ (\S{1,255})
    \s+ ( 0* (?: [0-4]?\d (?:\.\d+)? | 50 (?:\.0+)? ) )
    \s+ ( 0* (?: 1?\d | 20 ) ) \s*
    """,
    re.VERBOSE,
).fullmatch
match_at = re.compile(
    rb"AT [ ] \S+ [ ] [+-]\d+\.\d{9} [ ] (\S{1,255}) [ ]" + LOCATION + rb"[ ]" + TIME,
    re.VERBOSE,
).fullmatch

FULL = b"? server full\n"
"""Reply to a client that is refused because the server is full."""

HTTP_VERSIONS = (b" HTTP/1.0", b" HTTP/1.1")
"""Ends of a connection's first line that make it an HTTP request: it is echoed, the rest is unread."""

TLS_HANDSHAKE = b"\x16\x03"
"""The first bytes of a TLS handshake: the connection is closed without a reply."""

Record = tuple[int, bytes]
"""A client's time in nanoseconds and its `AT` line with the line feed. Of two records the greater
one wins, so servers that took the same time at once end with one winner everywhere."""


@dataclass(frozen=True, slots=True)
class Search:
    """A `WHATSAT` whose places come from elsewhere."""

    at: bytes
    """The beginning of the reply: the client's `AT` line."""
    location: str
    radius_km: float
    bound: int


def invalid(line: bytes) -> bytes:
    """The reply to a line that is no valid command."""
    return b"? " + line + b"\n"


def whatsat_reply(at: bytes, places: bytes) -> bytes:
    """The reply to a `WHATSAT`: the client's line, a JSON text, an empty line."""
    return at + places + b"\n\n"


def nanoseconds(seconds: bytes, fraction: bytes | None) -> int:
    """A time in nanoseconds. Never a float, which is not exact to a nanosecond."""
    return int(seconds) * NANOS + (int(fraction.ljust(9, b"0")) if fraction else 0)


class Records:
    """The newest location of every client, as one server knows it."""

    def __init__(self, server: str, *, has_places: bool, max_records: int) -> None:
        self.server = server.encode()
        self.has_places = has_places
        self.max_records = max_records
        self.records: dict[bytes, Record] = {}
        self.news: list[bytes] = []
        """`AT` lines that the neighbors have yet to get."""

    def take_news(self) -> bytes:
        """The lines that the neighbors have yet to get, as one text."""
        news = b"".join(self.news)
        self.news.clear()
        return news

    def answer(self, line: bytes) -> bytes | Search:
        """Carries out a client's line; the reply, or the search that will complete it."""
        if report := match_iamat(line):
            return self._report(line, *report.groups())
        if inquiry := match_whatsat(line):
            return self._inquiry(line, *inquiry.groups())
        return invalid(line)

    def _report(
        self,
        line: bytes,
        client: bytes,
        location: bytes,
        text: bytes,
        seconds: bytes,
        fraction: bytes | None,
    ) -> bytes:
        if len(location) > MAX_NUMBER or len(text) > MAX_NUMBER:
            return invalid(line)
        then = nanoseconds(seconds, fraction)
        difference = time.time_ns() - then
        if difference < -MAX_AHEAD:
            return invalid(line)
        sign = b"+" if difference >= 0 else b"-"
        whole, nanos = divmod(abs(difference), NANOS)
        at = b"AT %b %b%d.%09d %b %b %b\n" % (
            self.server, sign, whole, nanos, client, location, text,
        )  # fmt: skip
        known = self.records.get(client)
        if known is None and len(self.records) >= self.max_records:
            return invalid(line)
        if known is None or then > known[0]:
            self.records[client] = (then, at)
            self.news.append(at)
        return at

    def _inquiry(self, line: bytes, client: bytes, radius: bytes, bound: bytes) -> bytes | Search:
        known = self.records.get(client)
        if known is None or len(radius) > MAX_NUMBER or len(bound) > MAX_NUMBER:
            return invalid(line)
        at = known[1]
        if not self.has_places or not int(bound) or not radius.strip(b"0."):
            return whatsat_reply(at, ZERO_RESULTS)
        location = at.split()[4].decode()
        return Search(at, location, float(radius), int(bound))

    def adopt(self, line: bytes) -> bool:
        """Takes an `AT` line from a neighbor; whether it is one.

        What is not newer than what is known stops here, which ends every cycle.
        """
        at = match_at(line)
        if at is None:
            return False
        client, seconds, fraction = at.groups()
        record = (nanoseconds(seconds, fraction), line + b"\n")
        known = self.records.get(client)
        if known is None:
            if len(self.records) >= self.max_records:
                return True
        elif record <= known:
            return True
        self.records[client] = record
        self.news.append(record[1])
        return True
