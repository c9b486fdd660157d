"""Client of a herd: reports where clients are, asks where they are, and watches them move.

Needs Python 3.9 and nothing else. One file: copy it into a project, or put its folder into ``PYTHONPATH``.

::

    import herd

    with herd.Herd(["127.0.0.1:12000", "127.0.0.1:12001"]) as h:
        h.report("kiwi.cs.ucla.edu", 34.06893, -118.445127)
        for near in h.nearby("kiwi.cs.ucla.edu", radius_km=10, limit=5):
            print(near.km, near.record.client)
        with h.watch_area(34.07, -118.45, radius_km=5) as events:
            for event in events:
                print(event.kind, event.client)

A call uses any server of the list. When that one fails, is stopping or can't serve, the call goes on at the next,
until ``timeout``: everything a `Herd` sends may be sent twice. Errors are `RefusedError` (a server, or the library
itself, refuses the command: the subclass and ``code`` say why) and `UnavailableError` (no server answered).

Times are integers: nanoseconds since 1970. A float can't hold one, so none is taken or returned. Texts are kept as
they were reported (`Record.location_text`, `Record.time_text`), and `Herd.report_text` sends texts as they are.

Client ids are any 1 to 255 bytes without white space: ``str`` is sent as UTF-8, ``bytes`` as they are. An id that is
returned is ``str`` if it is UTF-8, else ``bytes``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, Union

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from types import TracebackType

__all__ = [
    "AheadError",
    "BusyError",
    "ClientId",
    "DeniedError",
    "Event",
    "Forgot",
    "ForgottenError",
    "FullError",
    "Herd",
    "HerdError",
    "InvalidError",
    "Near",
    "Places",
    "Receipt",
    "Record",
    "RefusedError",
    "RemovedError",
    "Report",
    "StartingError",
    "UnavailableError",
    "UnknownError",
    "UnwritableError",
    "Watcher",
]

#: A client's id.
ClientId = Union[str, bytes]

_T = TypeVar("_T")

_NS = 1_000_000_000
_WHITE_SPACE = frozenset(b" \t\r\n\f\v")
# Of a location that is made from floats: a ten-thousandth of a millimeter, which fits into a location's 40 bytes.
_DECIMALS = 12
_MAX_ID_BYTES = 255
_MAX_NAME_BYTES = 64
# A reply of a server is far below it.
_MAX_REPLY_BYTES = 16 << 20
_READ_BYTES = 64 << 10
# Reports of `report_many` that are sent and not answered. Both directions fit into the kernel's buffers, so the
# server can always write while this side does.
_WINDOW = 256
_WINDOW_BYTES = 32 << 10
# Pause before a further round over all servers, in seconds; half of it and more is random.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
# A clock that is set back by less is followed by times that go on rising.
_STEP_BACK_NS = 60 * _NS


# --- Errors ----------------------------------------------------------------------------------------------------------


class HerdError(Exception):
    """Base of all errors of this module.

    `results` is that of `Herd.report_many`, as far as it came: ``None`` for reports whose answer did not arrive.
    """

    results: list[Receipt | RefusedError | None] | None = None


class UnavailableError(HerdError):
    """No server answered in time. `reasons` says for each server that was tried why it did not."""

    def __init__(self, text: str, reasons: dict[str, str] | None = None) -> None:
        self.reasons = dict(reasons or {})
        super().__init__("; ".join([text, *(f"{server}: {why}" for server, why in self.reasons.items())]))


class RefusedError(HerdError):
    """A command that can't be carried out, as the server's ``ERR`` line or this library says.

    `code` is stable and upper case. An error with a code that this version does not know is of this class itself.
    `watch` is the name of the watch that is refused, for errors of a `Watcher`.
    """

    def __init__(self, code: str, text: str) -> None:
        self.code = code
        self.text = text
        self.watch: str | None = None
        super().__init__(f"{code}: {text}" if text else code)


class InvalidError(RefusedError, ValueError):
    """A wrong field or command: ``SYNTAX``, ``CLIENT``, ``LOCATION``, ``TIME``, ``RADIUS``, ``BOUND``, ``NAME``,
    ``LONG``.
    """


class AheadError(RefusedError):
    """``AHEAD``: the report's time is over 300 s ahead of the server's clock."""


class ForgottenError(RefusedError):
    """``FORGOTTEN``: the report is not newer than the moment at which its client was forgotten."""


class UnknownError(RefusedError, LookupError):
    """``UNKNOWN``: no such client at this server, or no such watch."""


class FullError(RefusedError):
    """``FULL``: the herd holds as many clients as it may."""


class UnwritableError(RefusedError):
    """``UNWRITABLE``: no server that was asked can write its journal now."""


class RemovedError(RefusedError):
    """``REMOVED``: no server that was asked is still part of the herd."""


class StartingError(RefusedError):
    """``STARTING``: no server that was asked has caught up yet."""


class DeniedError(RefusedError):
    """``DENIED``: the token does not allow it."""


class BusyError(RefusedError):
    """``BUSY``: a limit of the connection or the server."""


_ERRORS: dict[str, type[RefusedError]] = {
    **dict.fromkeys(["SYNTAX", "CLIENT", "LOCATION", "TIME", "RADIUS", "BOUND", "NAME", "LONG"], InvalidError),
    "AHEAD": AheadError,
    "FORGOTTEN": ForgottenError,
    "UNKNOWN": UnknownError,
    "FULL": FullError,
    "UNWRITABLE": UnwritableError,
    "REMOVED": RemovedError,
    "STARTING": StartingError,
    "DENIED": DeniedError,
    "BUSY": BusyError,
}
# Reasons of one server; another may carry the command out.
_ELSEWHERE = frozenset(["UNWRITABLE", "REMOVED", "STARTING"])


class _LostError(Exception):
    """A server or a connection that can't be used, and why. Ends an attempt, never a call."""


def _refusal(line: bytes) -> RefusedError:
    """Returns the error of an ``ERR CODE text`` line."""
    _, code, *text = line.decode("utf-8", "replace").split(" ", 2)
    return _ERRORS.get(code, RefusedError)(code, text[0] if text else "")


# --- Values ----------------------------------------------------------------------------------------------------------


class Record(NamedTuple):
    """A client's newest report, as the herd holds it."""

    client: ClientId
    #: Name of the server that took the report.
    server: str
    #: Location as it was reported, such as ``+34.068930-118.445127``.
    location_text: str
    #: Time as it was reported: POSIX seconds, such as ``1479413884.392014450``.
    time_text: str
    #: The server's time of receipt less the report's time, in seconds with nine decimals.
    difference_text: str

    @property
    def lat(self) -> float:
        """Latitude in degrees."""
        return self.position[0]

    @property
    def lon(self) -> float:
        """Longitude in degrees."""
        return self.position[1]

    @property
    def position(self) -> tuple[float, float]:
        """Latitude and longitude in degrees."""
        text = self.location_text
        cut = max(text.rfind("+"), text.rfind("-"))
        return float(text[:cut]), float(text[cut:])

    @property
    def time_ns(self) -> int:
        """Time of the report in nanoseconds since 1970."""
        return _nanoseconds(self.time_text)

    @property
    def received_ns(self) -> int:
        """Time of receipt by `server` in nanoseconds since 1970."""
        return _nanoseconds(self.time_text) + _nanoseconds(self.difference_text)


class Report(NamedTuple):
    """A report for `Herd.report_many`. `time_ns` is nanoseconds since 1970; now, if it is ``None``."""

    client: ClientId
    lat: float
    lon: float
    time_ns: int | None = None


class Receipt(NamedTuple):
    """Answer to a report."""

    #: The client's record after the report.
    record: Record
    #: True if `record` is this report: it was stored now, or by an earlier attempt whose answer was lost. False if the
    #: herd had a report that is not older; then nothing was changed.
    current: bool


class Near(NamedTuple):
    """A client that is near."""

    km: float
    record: Record


class Places(NamedTuple):
    """Places near a client, in the shape of a Google Places Nearby Search answer."""

    record: Record
    answer: dict[str, Any]


class Forgot(NamedTuple):
    """A client that was forgotten; reports up to `time_ns` are refused from now on."""

    client: ClientId
    server: str
    time_ns: int


class Event(NamedTuple):
    """A change that a `Watcher` tells.

    ======== ==========================================================================================
    kind     meaning
    ======== ==========================================================================================
    inside   a client is there as the watch begins
    settled  all clients that were there have been told: `total` is their number. Once for each watch
    enter    a client has come into the area
    move     a client has reported again, inside the area; for the watch of a client, anywhere
    leave    a client is in the area no more: `record` is its report from outside, or its last one inside
             where the watcher was without a server meanwhile
    gone     a client was forgotten or has expired: `record` is the last one known
    ======== ==========================================================================================
    """

    kind: str
    watch: str
    client: ClientId | None = None
    record: Record | None = None
    total: int | None = None


def _nanoseconds(text: str) -> int:
    """Returns decimal seconds with at most nine decimals as nanoseconds."""
    whole, _, fraction = text.lstrip("+-").partition(".")
    size = int(whole) * _NS + int(fraction.ljust(9, "0") or 0)
    return -size if text.startswith("-") else size


def _decoded(field: bytes) -> ClientId:
    try:
        return field.decode()
    except UnicodeDecodeError:
        return field


def _record(fields: list[bytes]) -> Record:
    """Returns the record of ``AT server difference client location time``; raises `ValueError`."""
    word, server, difference, client, location, moment = fields
    if word not in (b"AT", b"OLD"):
        raise ValueError(word)
    return Record(_decoded(client), server.decode(), location.decode(), moment.decode(), difference.decode())


# --- Fields of commands ----------------------------------------------------------------------------------------------


def _field(code: str, value: ClientId, limit: int) -> bytes:
    """Returns a field's bytes. One that would be read as several, or as none, must not be sent."""
    if not isinstance(value, (str, bytes)):
        raise TypeError(f"{code.lower()}: str or bytes expected, not {type(value).__name__}")
    try:
        field = value.encode() if isinstance(value, str) else value
    except UnicodeEncodeError:
        raise InvalidError(code, f"{value!r} can't be written as UTF-8; pass bytes") from None
    if not 1 <= len(field) <= limit or not _WHITE_SPACE.isdisjoint(field):
        raise InvalidError(code, f"{value!r:.80} is not 1 to {limit} bytes without white space")
    return field


def _client(client: ClientId) -> bytes:
    return _field("CLIENT", client, _MAX_ID_BYTES)


def _coordinate(value: float, limit: float, what: str) -> str:
    if not -limit <= value <= limit:
        raise InvalidError("LOCATION", f"{what} {value!r} is not from -{limit} to {limit}")
    text = repr(float(value))
    if "e" in text or len(text.partition(".")[2]) > _DECIMALS:
        text = f"{value:.{_DECIMALS}f}"
    return text if text.startswith("-") else f"+{text}"


def _location(lat: float, lon: float) -> bytes:
    return (_coordinate(lat, 90, "latitude") + _coordinate(lon, 180, "longitude")).encode()


def _radius(radius_km: float) -> bytes:
    if not 0 <= radius_km < float("inf"):
        raise InvalidError("RADIUS", f"{radius_km!r} is not a number of kilometers")
    return f"{radius_km:.6f}".rstrip("0").rstrip(".").encode()


def _bound(limit: int) -> bytes:
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 0:
        raise InvalidError("BOUND", f"{limit!r} is not a number of clients")
    return b"%d" % limit


def _moment(time_ns: int) -> bytes:
    # A float of seconds is the mistake that this is for.
    if isinstance(time_ns, bool) or not isinstance(time_ns, int):
        raise TypeError(f"time_ns: int (nanoseconds) expected, not {type(time_ns).__name__}")
    if time_ns < 0:
        raise InvalidError("TIME", f"{time_ns} is before 1970")
    return b"%d.%09d" % divmod(time_ns, _NS)


def _is_location(field: bytes) -> bool:
    """Tells whether ``NEARBY`` takes a field as a location: sign digits sign digits, each with a fraction or not."""
    parts = field.replace(b"-", b"+").split(b"+")
    return len(parts) == 3 and not parts[0] and all(_is_number(part) for part in parts[1:])


def _is_number(text: bytes) -> bool:
    whole, point, fraction = text.partition(b".")
    return whole.isdigit() and (fraction.isdigit() if point else True)


def _line(*fields: bytes) -> bytes:
    return b" ".join(fields) + b"\n"


# --- Connections -----------------------------------------------------------------------------------------------------


def _open_socket(host: str, port: int, timeout: float) -> socket.socket:
    """Opens the byte stream to a server; all connections are made here."""
    stream = socket.create_connection((host, port), timeout)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return stream


class _Address(NamedTuple):
    host: str
    port: int
    text: str

    @classmethod
    def parse(cls, text: str) -> _Address:
        host, colon, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not colon or not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
            raise ValueError(f"{text!r} is not host:port, such as 127.0.0.1:12000 or [::1]:12000")
        return cls(host, int(port), text)


class _Settings(NamedTuple):
    servers: tuple[_Address, ...]
    token: bytes | None
    connect_timeout: float
    reply_timeout: float
    timeout: float
    max_attempts: int


class _Deadline:
    """The end of a call, on the monotonic clock."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._at = time.monotonic() + self._seconds

    def left(self, limit: float) -> float:
        """Returns the seconds that are left, at most `limit`; 0 if it is over."""
        return max(0.0, min(limit, self._at - time.monotonic()))


class _Connection:
    """A connection that speaks the second dialect."""

    def __init__(self, address: _Address, settings: _Settings, deadline: _Deadline) -> None:
        self.address = address
        self._reply_timeout = settings.reply_timeout
        self._deadline = deadline
        self._buffer = bytearray()
        # Lines begin at `_begin`; there is no line feed before `_searched`.
        self._begin = self._searched = 0
        self._process = os.getpid()
        wait = deadline.left(settings.connect_timeout)
        if not wait:
            raise _LostError("no time left to connect")
        try:
            self.socket = _open_socket(address.host, address.port, wait)
        except OSError as error:
            raise _LostError(_reason(error)) from error
        try:
            self.server = self._greet(settings.token)
        except BaseException:
            self.socket.close()
            raise

    def _greet(self, token: bytes | None) -> str:
        """Changes to the second dialect, and returns the server's name."""
        self.send(b"HELLO 2\n")
        line = self.line()
        words = line.split()
        if words[:2] != [b"HELLO", b"2"] or len(words) != 4:
            raise _LostError(
                "too many clients"
                if line == b"? server full"
                else f"no second dialect: {line.decode('utf-8', 'replace')}"
            )
        if token is not None:
            # Not before the server has shown that it would take it.
            self.send(_line(b"AUTH", token))
            welcome = self.reply()[0]
            if not welcome.startswith(b"WELCOME "):
                raise _malformed(welcome)
        return words[2].decode("utf-8", "replace")

    def send(self, data: bytes) -> None:
        wait = self._deadline.left(self._reply_timeout)
        if not wait:
            raise _LostError("no time left")
        try:
            self.socket.settimeout(wait)
            self.socket.sendall(data)
        except OSError as error:
            raise _LostError(_reason(error)) from error

    def renew(self, deadline: _Deadline) -> None:
        self._deadline = deadline

    def receive(self, wait: float) -> None:
        """Reads once, after at most `wait` seconds."""
        if not wait:
            raise _LostError("no answer in time")
        try:
            self.socket.settimeout(wait)
            data = self.socket.recv(_READ_BYTES)
        except socket.timeout:
            raise _LostError("no answer in time") from None
        except OSError as error:
            raise _LostError(_reason(error)) from error
        if not data:
            raise _LostError("closed by the server")
        self._buffer += data

    def buffered_line(self) -> bytes | None:
        """Returns the next line, without its ending, if it has arrived."""
        end = self._buffer.find(b"\n", self._searched)
        if end < 0:
            # Lines that were handed out are dropped once a read, not once a line.
            del self._buffer[: self._begin]
            self._begin, self._searched = 0, len(self._buffer)
            if self._searched > _MAX_REPLY_BYTES:
                raise _LostError("a line without an end")
            return None
        line = bytes(self._buffer[self._begin : end])
        self._begin = self._searched = end + 1
        return line

    def line(self) -> bytes:
        while (line := self.buffered_line()) is None:
            self.receive(self._deadline.left(self._reply_timeout))
        return line

    def reply(self, several: bool = False) -> list[bytes]:
        """Returns a reply: a line, or `several` up to an empty one. Raises `RefusedError` for an ``ERR`` line."""
        line = self.line()
        if line.startswith(b"ERR "):
            raise _refusal(line)
        if not several:
            return [line]
        lines, size = [], 0
        while line:
            lines.append(line)
            size += len(line)
            if size > _MAX_REPLY_BYTES:
                raise _LostError("a reply without an end")
            line = self.line()
        return lines

    def is_usable(self) -> bool:
        """Tells whether a command may be sent: this process made it, and nothing has come since the last reply,
        which could only be the end of the stream.
        """
        if self._process != os.getpid() or len(self._buffer) > self._begin:
            return False
        try:
            self.socket.setblocking(False)
            self.socket.recv(1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        self.socket.close()


def _reason(error: OSError) -> str:
    return "no answer in time" if isinstance(error, socket.timeout) else error.strerror or str(error)


def _malformed(line: bytes) -> _LostError:
    return _LostError(f"unexpected reply: {line[:80]!r}")


class _Rotation:
    """The server that is next, and the pause before it: none until all have failed, then longer each round."""

    def __init__(self, settings: _Settings, first: int) -> None:
        self._settings = settings
        self._index = first
        self.reset()

    def reset(self) -> None:
        self.failures = 0
        self.reasons: dict[str, str] = {}

    def address(self) -> _Address:
        return self._settings.servers[self._index]

    @property
    def index(self) -> int:
        return self._index

    def failed(self, why: str) -> None:
        self.reasons[self.address().text] = why
        self.failures += 1
        self._index = (self._index + 1) % len(self._settings.servers)

    def pause(self) -> float:
        rounds, rest = divmod(self.failures, len(self._settings.servers))
        if rest or not rounds:
            return 0.0
        # At most 1 << 10, lest the number become huge.
        return min(_LONGEST_PAUSE, _FIRST_PAUSE * (1 << min(rounds - 1, 10))) * random.uniform(0.5, 1.0)


# --- Herd ------------------------------------------------------------------------------------------------------------


class Herd:
    """A herd, reached through any of its servers.

    Connects at the first call. Threads may share one: their calls take turns on its one connection. Usable as a
    context manager; `close` it otherwise.
    """

    def __init__(
        self,
        servers: Iterable[str],
        *,
        token: str | None = None,
        timeout: float = 15.0,
        connect_timeout: float = 3.0,
        reply_timeout: float = 5.0,
        max_attempts: int = 32,
        shuffle: bool = True,
    ) -> None:
        """Takes the servers' client addresses, ``host:port``.

        Args:
            servers: client addresses; raises `ValueError` if there is none, or one is wrong.
            token: is sent to each server (``AUTH``).
            timeout: seconds that a call may take in all, with everything that it tries.
            connect_timeout: seconds to connect to one server.
            reply_timeout: seconds without a byte after which a server that owes a reply is given up.
            max_attempts: attempts of a call at most.
            shuffle: begins at a random server, so that clients spread; otherwise at the first.
        """
        if isinstance(servers, str):
            raise TypeError("servers: a list of host:port expected, not a str")
        addresses = tuple(_Address.parse(server) for server in servers)
        if not addresses:
            raise ValueError("servers: at least one host:port is needed")
        self._settings = _Settings(
            addresses,
            None if token is None else _field("DENIED", token, 4_000),
            connect_timeout,
            reply_timeout,
            timeout,
            max(1, max_attempts),
        )
        self._rotation = _Rotation(self._settings, random.randrange(len(addresses)) if shuffle else 0)
        self._connection: _Connection | None = None
        self._lock = threading.Lock()
        # Guards `_last_time`; not held while a call waits.
        self._clock = threading.Lock()
        self._last_time = 0
        self._closed = False

    # --- Reports ---

    def report(self, client: ClientId, lat: float, lon: float, time_ns: int | None = None) -> Receipt:
        """Reports where a client is, in degrees, at a time in nanoseconds since 1970 (now, if it is left out).

        Floats are written with the digits that tell them apart, at most 12 decimals.
        """
        report = Report(client, lat, lon, time_ns)
        return self._report(*self._report_fields(report))

    def report_text(self, client: ClientId, location: str, time: str) -> Receipt:
        """Reports a location such as ``+34.068930-118.445127`` at a time in POSIX seconds with up to nine decimals,
        both kept as they are written.
        """
        return self._report(_client(client), _field("LOCATION", location, 4_000), _field("TIME", time, 4_000))

    def report_many(self, reports: Iterable[Report | tuple[Any, ...]]) -> list[Receipt | RefusedError]:
        """Sends many reports without waiting for each answer; takes `Report` or tuples like it.

        Returns a result for each, in their order: its `Receipt`, or the `RefusedError` (which is not raised) that tells
        why it was not taken. `timeout` and `max_attempts` count from the last answer. Where they end the call, the
        error's `results` has the answers that did arrive.
        """
        results: list[Receipt | RefusedError | None] = []
        source = iter(reports)
        # Taken from the source and not answered.
        open_: deque[tuple[int, bytes, tuple[bytes, bytes, bytes]]] = deque()
        open_bytes = 0

        def take() -> list[bytes]:
            nonlocal open_bytes
            lines: list[bytes] = []
            while len(open_) < _WINDOW and open_bytes < _WINDOW_BYTES:
                try:
                    report = next(source)
                except StopIteration:
                    break
                results.append(None)
                try:
                    fields = self._report_fields(Report(*report))
                except InvalidError as error:
                    results[-1] = error
                    continue
                lines.append(_line(b"IAMAT", *fields))
                open_.append((len(results) - 1, lines[-1], fields))
                open_bytes += len(lines[-1])
            return lines

        def exchange(connection: _Connection, deadline: _Deadline) -> None:
            nonlocal open_bytes
            lines = [line for _, line, _ in open_]
            while True:
                # Refilled when half of it is answered, so that many reports share a write.
                if len(open_) <= _WINDOW // 2:
                    lines += take()
                if lines:
                    connection.send(b"".join(lines))
                    lines = []
                if not open_:
                    return
                position, line, fields = open_[0]
                try:
                    results[position] = _receipt(connection.reply()[0], *fields)
                except RefusedError as error:
                    if error.code in _ELSEWHERE:
                        raise
                    results[position] = error
                open_.popleft()
                open_bytes -= len(line)
                deadline.renew()
                self._rotation.reset()

        try:
            self._call(exchange)
        except HerdError as error:
            error.results = results
            raise
        return results  # type: ignore[return-value] # Each has its answer.

    def forget(self, client: ClientId) -> Forgot:
        """Has the herd forget a client, known here or not. A report with a later time revives it."""
        field = _client(client)

        def parse(lines: list[bytes]) -> Forgot:
            word, server, forgotten, moment = lines[0].split()
            if word != b"FORGOT" or forgotten != field:
                raise ValueError(word)
            return Forgot(_decoded(forgotten), server.decode(), _nanoseconds(moment.decode()))

        return self._ask(_line(b"FORGET", field), parse)

    # --- Questions ---

    def where(self, client: ClientId) -> Record:
        """Returns a client's record; raises `UnknownError`."""
        field = _client(client)
        return self._ask(_line(b"WHERE", field), lambda lines: _record_of(lines[0], field))

    def nearby(self, center: ClientId | tuple[float, float], radius_km: float, limit: int = 20) -> list[Near]:
        """Returns the clients within a radius, nearest first, at most `limit` (1 to 1,000).

        `center` is ``(lat, lon)``, or a client, which is left out; raises `UnknownError` for an unknown one.
        """
        if isinstance(center, (str, bytes)):
            field = _client(center)
            if _is_location(field):
                raise InvalidError("CLIENT", f"{center!r} would be taken as a location; ask with (lat, lon)")
        else:
            field = _location(*center)

        def parse(lines: list[bytes]) -> list[Near]:
            found = []
            for line in lines:
                word, km, *fields = line.split()
                if word != b"NEAR":
                    raise ValueError(word)
                found.append(Near(float(km), _record(fields)))
            return found

        return self._ask(_line(b"NEARBY", field, _radius(radius_km), _bound(limit)), parse, several=True)

    def within(self, south: float, west: float, north: float, east: float, limit: int = 1000) -> list[Record]:
        """Returns the clients in a box of degrees, in no order, at most `limit` (1 to 1,000): that many may not be all.

        ``west > east`` is a box across the 180th meridian.
        """
        line = _line(b"WITHIN", _location(south, west), _location(north, east), _bound(limit))
        return self._ask(line, lambda lines: [_record(line.split()) for line in lines], several=True)

    def whatsat(self, client: ClientId, radius_km: float, limit: int) -> Places:
        """Returns what is near a client: at most `limit` (0 to 20) places within a radius of 0 to 50 km."""
        field = _client(client)

        def parse(lines: list[bytes]) -> Places:
            return Places(_record_of(lines[0], field), json.loads(b"\n".join(lines[1:])))

        return self._ask(_line(b"WHATSAT", field, _radius(radius_km), _bound(limit)), parse, several=True)

    def ping(self) -> float:
        """Returns the seconds that a round trip to the server took."""
        # Connecting is not part of it.
        self._call(lambda _connection, _deadline: None)
        began = time.monotonic()

        def parse(lines: list[bytes]) -> float:
            if lines != [b"PONG"]:
                raise ValueError(lines)
            return time.monotonic() - began

        return self._ask(b"PING\n", parse)

    # --- Watches ---

    def watch(self, *, patience: float | None = 60.0, ping_interval: float = 15.0) -> Watcher:
        """Returns a `Watcher` on a connection of its own, without watches as yet: see its ``add_area`` and
        ``add_client``.

        Args:
            patience: seconds without any server after which its iterator raises `UnavailableError`; ``None``: never.
            ping_interval: seconds of silence after which it asks whether the server is still there.
        """
        return Watcher(self._settings, self._rotation.index, patience, ping_interval)

    def watch_area(
        self, lat: float, lon: float, radius_km: float, name: str | None = None, **options: float
    ) -> Watcher:
        """Returns a `Watcher` of an area, with the options of `watch`."""
        watcher = self.watch(**options)
        watcher.add_area(lat, lon, radius_km, name)
        return watcher

    def watch_client(self, client: ClientId, name: str | None = None, **options: float) -> Watcher:
        """Returns a `Watcher` of a client, known as yet or not, with the options of `watch`."""
        watcher = self.watch(**options)
        watcher.add_client(client, name)
        return watcher

    # --- Calls ---

    @property
    def server(self) -> str | None:
        """Name of the server that the last call used, if the connection is still open."""
        connection = self._connection
        return connection.server if connection else None

    def close(self) -> None:
        """Closes the connection, after a call that another thread makes; later ones raise `UnavailableError`."""
        with self._lock:
            self._closed = True
            self._drop()

    def __enter__(self) -> Herd:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _report_fields(self, report: Report) -> tuple[bytes, bytes, bytes]:
        # The time is read once, so that a report that is sent again is the same report.
        moment = self._now() if report.time_ns is None else report.time_ns
        return _client(report.client), _location(report.lat, report.lon), _moment(moment)

    def _now(self) -> int:
        """Returns the time, always later than the last, so that no report loses against the one before it."""
        with self._clock:
            now = time.time_ns()
            if now <= self._last_time < now + _STEP_BACK_NS:
                now = self._last_time + 1
            self._last_time = now
            return now

    def _report(self, client: bytes, location: bytes, moment: bytes) -> Receipt:
        line = _line(b"IAMAT", client, location, moment)
        return self._ask(line, lambda lines: _receipt(lines[0], client, location, moment))

    def _ask(self, line: bytes, parse: Callable[[list[bytes]], _T], several: bool = False) -> _T:
        """Sends a command and returns what `parse` makes of its reply."""

        def exchange(connection: _Connection, _: _Deadline) -> _T:
            connection.send(line)
            lines = connection.reply(several)
            try:
                return parse(lines)
            except (ValueError, IndexError):
                raise _malformed(b"\n".join(lines)) from None

        return self._call(exchange)

    def _call(self, exchange: Callable[[_Connection, _Deadline], _T]) -> _T:
        """Runs an exchange on a connection, again on that to another server as long as servers fail."""
        deadline = _Deadline(self._settings.timeout)
        if not self._lock.acquire(timeout=self._settings.timeout):
            raise UnavailableError("calls of other threads took all the time")
        try:
            self._rotation.reset()
            while True:
                try:
                    return exchange(self._connected(deadline), deadline)
                except RefusedError as error:
                    if error.code not in _ELSEWHERE:
                        raise
                    failure: Exception = error
                except _LostError as error:
                    failure = error
                self._drop()
                self._rotation.failed(str(failure))
                pause = self._rotation.pause()
                if self._rotation.failures >= self._settings.max_attempts or deadline.left(pause + 0.001) <= pause:
                    if isinstance(failure, RefusedError):
                        raise failure
                    # The reasons say more than the last failure alone.
                    raise UnavailableError("no server answered", self._rotation.reasons) from None
                time.sleep(pause)
        except RefusedError:
            # Its reply was read to the end.
            raise
        except BaseException:
            # An interrupt in the middle of a reply: what comes next belongs to no later command.
            self._drop()
            raise
        finally:
            self._lock.release()

    def _connected(self, deadline: _Deadline) -> _Connection:
        if self._closed:
            raise UnavailableError("this Herd is closed")
        if self._connection is not None and not self._connection.is_usable():
            # Closed while it was not used: no fault of the server, which is asked again.
            self._drop()
        if self._connection is None:
            self._connection = _Connection(self._rotation.address(), self._settings, deadline)
        self._connection.renew(deadline)
        return self._connection

    def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _record_of(line: bytes, client: bytes) -> Record:
    fields = line.split()
    record = _record(fields)
    if fields[3] != client:
        raise ValueError(line)
    return record


def _receipt(line: bytes, client: bytes, location: bytes, moment: bytes) -> Receipt:
    fields = line.split()
    try:
        record = _record(fields)
        # OLD with this very report: an attempt before this one has stored it.
        same = fields[4] == location and record.time_ns == _nanoseconds(moment.decode())
        if fields[3] != client or (fields[0] == b"AT" and not same):
            raise ValueError(line)
    except ValueError:
        raise _malformed(line) from None
    return Receipt(record, same)


# --- Watches ---------------------------------------------------------------------------------------------------------


class _Watch:
    """A watch, and what its caller was told."""

    def __init__(self, name: str, fields: bytes, is_area: bool) -> None:
        self.name = name
        self.line = _line(b"WATCH", name.encode(), fields)
        self.is_area = is_area
        # The `AT` lines of clients inside, by client.
        self.known: dict[bytes, bytes] = {}
        # Clients inside that this server has told since its last `RESET`; None outside a filling.
        self.seen: set[bytes] | None = None
        # Told of the first filling's end.
        self.settled = False
        # The server has confirmed it on this connection.
        self.confirmed = False

    def push(self, word: bytes, rest: bytes) -> Iterator[Event]:
        """Applies a push and returns what of it is new; raises `ValueError` for one that is malformed."""
        if word == b"RESET":
            self.seen = set()
        elif word == b"SETTLED":
            yield from self._settle()
        elif word == b"GONE":
            client = rest
            if self.seen is not None:
                self.seen.discard(client)
            if client in self.known:
                yield self._event("gone", client, self.known.pop(client))
        else:
            yield from self._located(word, rest)

    def _located(self, word: bytes, line: bytes) -> Iterator[Event]:
        client, moment = line.split()[3:6:2]
        told = self.known.get(client)
        leaves = word == b"LEAVE"
        # A server that is behind the one before it tells the past again, until it has caught up.
        is_past = told is not None and _nanoseconds(moment.decode()) < _nanoseconds(told.split()[5].decode())
        if self.seen is not None:
            if leaves and not is_past:
                self.seen.discard(client)
            else:
                self.seen.add(client)
        if is_past:
            return
        if leaves:
            if told is not None:
                del self.known[client]
                yield self._event("leave", client, line)
        elif told != line:
            self.known[client] = line
            if told is None and word == b"INSIDE" and not self.settled:
                kind = "inside"
            else:
                kind = "enter" if told is None and self.is_area else "move"
            yield self._event(kind, client, line)

    def _settle(self) -> Iterator[Event]:
        seen, self.seen = self.seen, None
        if seen is None:
            raise ValueError("SETTLED without RESET")
        for client in [client for client in self.known if client not in seen]:
            # A client does not leave a watch of itself: the server does not know it.
            yield self._event("leave" if self.is_area else "gone", client, self.known.pop(client))
        if not self.settled:
            self.settled = True
            yield Event("settled", self.name, total=len(self.known))

    def _event(self, kind: str, client: bytes, line: bytes) -> Event:
        return Event(kind, self.name, _decoded(client), _record(line.split()))


class Watcher:
    """Watches on one connection, and the events that they tell: an iterator that ends when it is closed.

    When its connection is lost it goes on at another server, compares what is inside there with what it has told, and
    yields only the difference. Events come as fast as they are taken: what is not taken waits at the server, which
    tells of each client the newest alone. For a client inside, times never go back.

    Iterate in one thread. Watches may be added and removed, and the watcher closed, by any, at any time. A watch that
    the server refuses is taken out, and its `RefusedError` (with `watch`, the name) raised by the iterator, which can
    be used further, as after `UnavailableError`.
    """

    def __init__(self, settings: _Settings, first: int, patience: float | None, ping_interval: float) -> None:
        self._settings = settings
        self._patience = patience
        self._ping_interval = ping_interval
        self._rotation = _Rotation(settings, first)
        self._lock = threading.Lock()
        self._watches: dict[str, _Watch] = {}
        # Commands not sent yet; each with its watch, or None for that of one that was removed.
        self._commands: deque[tuple[bytes, _Watch | None]] = deque()
        self._named = 0
        self._closed = False
        self._server: str | None = None
        self._poll_until: float | None = None
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._events = self._run()
        self._iterating = threading.Lock()

    # --- Watches ---

    def add_area(self, lat: float, lon: float, radius_km: float, name: str | None = None) -> str:
        """Watches the clients within a radius (over 0, up to 20,016 km), and returns the watch's name."""
        return self._add(name, _location(lat, lon) + b" " + _radius(radius_km), is_area=True)

    def add_client(self, client: ClientId, name: str | None = None) -> str:
        """Watches a client, known as yet or not, and returns the watch's name."""
        return self._add(name, _client(client), is_area=False)

    def remove(self, name: str) -> None:
        """Ends a watch; nothing more is told of it. Raises `UnknownError` if there is none of that name."""
        with self._lock:
            if self._watches.pop(name, None) is None:
                raise UnknownError("UNKNOWN", f"no watch {name!r}")
            self._commands.append((_line(b"UNWATCH", name.encode()), None))
        self._wake()

    def _add(self, name: str | None, fields: bytes, is_area: bool) -> str:
        with self._lock:
            if self._closed:
                raise UnavailableError("this Watcher is closed")
            if name is None:
                name = self._free_name()
            _field("NAME", name, _MAX_NAME_BYTES)
            if name in self._watches:
                raise InvalidError("NAME", f"there is a watch {name!r} already")
            watch = self._watches[name] = _Watch(name, fields, is_area)
            self._commands.append((watch.line, watch))
        self._wake()
        return name

    def _free_name(self) -> str:
        while True:
            self._named += 1
            name = f"watch-{self._named}"
            if name not in self._watches:
                return name

    # --- Events ---

    @property
    def server(self) -> str | None:
        """Name of the server that tells the events; ``None`` without a connection."""
        return self._server

    def __iter__(self) -> Watcher:
        return self

    def __next__(self) -> Event:
        while True:
            event = self._next(None)
            if event is not None:
                return event

    def poll(self, timeout: float) -> Event | None:
        """Returns the next event, or ``None`` if none comes within `timeout` seconds; while it connects, up to
        ``connect_timeout`` and ``reply_timeout`` later. Raises `UnavailableError` once it is closed.
        """
        try:
            return self._next(time.monotonic() + timeout)
        except StopIteration:
            raise UnavailableError("this Watcher is closed") from None

    def close(self) -> None:
        """Ends the iterator, in whatever thread it waits, and its watches."""
        with self._lock:
            self._closed = True
        self._wake()
        # An iterator that waits ends by itself; one that does not is ended here.
        if self._iterating.acquire(blocking=False):
            try:
                self._events.close()
                self._wake_reader.close()
                self._wake_writer.close()
            finally:
                self._iterating.release()

    def __enter__(self) -> Watcher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _next(self, until: float | None) -> Event | None:
        if not self._iterating.acquire(blocking=False):
            raise RuntimeError("another thread iterates over this Watcher")
        try:
            self._poll_until = until
            event = next(self._events)
        finally:
            self._iterating.release()
            if self._closed:
                self.close()
        if isinstance(event, HerdError):
            raise event
        return event

    def _wake(self) -> None:
        # If it is full it will wake; or it is closed.
        with contextlib.suppress(OSError):
            self._wake_writer.send(b"!")

    def _run(self) -> Generator[Event | HerdError | None, None, None]:
        """Yields events, errors that `_next` raises, and None where a poll's time is over."""
        lost_since = time.monotonic()
        while not self._closed:
            try:
                connection = _Connection(self._rotation.address(), self._settings, _Deadline(self._settings.timeout))
                try:
                    yield from self._listen(connection)
                finally:
                    self._server = None
                    connection.close()
            except (_LostError, RefusedError) as error:
                if not self._rotation.failures:
                    lost_since = time.monotonic()
                self._rotation.failed(str(error))
                if isinstance(error, DeniedError):
                    yield error
                elif self._patience is not None and time.monotonic() - lost_since >= self._patience:
                    yield UnavailableError("no server to watch at", self._rotation.reasons)
                    lost_since = time.monotonic()
            yield from self._pause(self._rotation.pause())

    def _pause(self, seconds: float) -> Generator[None, None, None]:
        """Waits, unless it is closed meanwhile."""
        end = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._closed and (left := end - time.monotonic()) > 0:
                yield from self._until_poll(selector, left)

    def _until_poll(self, selector: selectors.BaseSelector, wait: float) -> Generator[None, None, bool]:
        """Waits for the selector at most `wait` seconds, with a yield where the time of a poll is over. Tells whether
        there is something to read from the server.
        """
        if self._poll_until is not None:
            wait = min(wait, max(0.0, self._poll_until - time.monotonic()))
        ready = False
        for key, _ in selector.select(wait):
            if key.fileobj is self._wake_reader:
                self._wake_reader.recv(4096)
            else:
                ready = True
        if not ready and self._poll_until is not None and time.monotonic() >= self._poll_until:
            yield None
        return ready

    def _listen(self, connection: _Connection) -> Generator[Event | HerdError | None, None, None]:
        """Yields the events of a connection until it is lost (`_LostError`) or the watcher closed."""
        self._server = connection.server
        # The watches of commands whose replies are due, in their order; a word for others.
        due: deque[_Watch | bytes] = deque()
        with self._lock:
            self._commands.clear()
            for watch in self._watches.values():
                watch.confirmed, watch.seen = False, None
                self._commands.append((watch.line, watch))
        heard, asked = time.monotonic(), 0.0
        with selectors.DefaultSelector() as selector:
            selector.register(connection.socket, selectors.EVENT_READ)
            selector.register(self._wake_reader, selectors.EVENT_READ)
            while not self._closed:
                connection.renew(_Deadline(self._settings.timeout))
                with self._lock:
                    commands = list(self._commands)
                    self._commands.clear()
                if commands:
                    connection.send(b"".join(line for line, _ in commands))
                    due.extend(watch or b"UNWATCHED" for _, watch in commands)
                    asked = time.monotonic()
                while not self._closed and (line := connection.buffered_line()) is not None:
                    yield from self._take(line, due)
                if self._closed:
                    return
                # Whether it is silent is judged only once there is nothing to read: the caller may have been away.
                now = time.monotonic()
                limit = asked + self._settings.reply_timeout if due else heard + self._ping_interval
                if (yield from self._until_poll(selector, max(0.0, limit - now))):
                    connection.receive(self._settings.reply_timeout)
                    heard = asked = time.monotonic()
                elif time.monotonic() >= limit:
                    if due:
                        raise _LostError("no answer in time")
                    connection.send(b"PING\n")
                    due.append(b"PONG")
                    asked = time.monotonic()

    def _take(self, line: bytes, due: deque[_Watch | bytes]) -> Iterator[Event | HerdError]:
        """Takes a push or a reply."""
        word, _, rest = line.partition(b" ")
        try:
            if word in _PUSHES:
                name, _, rest = rest.partition(b" ")
                watch = self._watches.get(name.decode())
                # Of a watch that was removed, and may be another by now, pushes can still be on their way.
                if watch is not None and watch.confirmed:
                    yield from watch.push(word, rest)
                return
            reply = due.popleft()
            if word == b"ERR":
                yield from self._refused(_refusal(line), reply)
            elif isinstance(reply, bytes):
                if word != reply:
                    raise ValueError(word)
            elif line == _line(b"WATCHING", reply.name.encode())[:-1]:
                reply.confirmed = True
                # The server is of use.
                self._rotation.reset()
            else:
                raise ValueError(word)
        except (ValueError, IndexError):
            raise _malformed(line) from None

    def _refused(self, error: RefusedError, reply: _Watch | bytes) -> Iterator[HerdError]:
        if isinstance(reply, bytes):
            # Of an UNWATCH: its watch was refused before.
            if error.code == "UNKNOWN":
                return
            raise _LostError(str(error))
        if error.code in _ELSEWHERE:
            raise error
        with self._lock:
            if self._watches.get(reply.name) is not reply:
                return
            del self._watches[reply.name]
        error.watch = reply.name
        yield error


_PUSHES = frozenset([b"RESET", b"INSIDE", b"SETTLED", b"ENTER", b"MOVE", b"LEAVE", b"GONE"])
