"""The herd on asyncio: one thread, a protocol object for every connection.

Clients and neighbors are `asyncio.Protocol`s, since they are many and their lines are short. What
is done step by step, keeping up a link and asking for places, are coroutines.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from functools import partial
from typing import cast

import aiohttp
from herd.places import MAX_BODY, TIMEOUT
from herd.program import Settings, fail, flush, printable, read_settings, ready
from herd.records import FULL, HTTP_VERSIONS, MAX_LINE, TLS_HANDSHAKE, Records, Search, invalid, whatsat_reply
from herd.topology import Server
from yarl import URL

BACKLOG = 4096
"""Connections that the kernel holds until they are accepted."""

MAX_REPLIES = 64 << 10
"""Bytes of replies made at once; past this it is seen first whether the client takes them."""

LINE_TIMEOUT = 10.0
"""Seconds from a line's first byte to its last; past this the connection is closed."""

REPLY_TIMEOUT = 10.0
"""Seconds until a client must have taken its replies; past this the connection is closed."""

DRAIN_TIMEOUT = 1.0
"""Seconds that a closing connection drops what still comes: a plain close would reset it."""

STOP_TIMEOUT = 5.0
"""Seconds until clients must have taken what they are owed when the server stops."""

MAX_PEER_LINE = 1024
"""Bytes that a neighbor's line may have: more than any valid one has."""

MAX_UNSENT = 64 << 20
"""Bytes unsent to a neighbor; past this the link is cut, and starts again from the records."""

CATCH_UP_RECORDS = 1000
"""Records sent at once to a neighbor that has just been connected."""

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two tries to reach a neighbor: doubled from the first to the last."""

FLUSH_INTERVAL = 0.2
"""Seconds until a logged line is in the file."""


class Session(asyncio.Protocol):
    """One client: bounded lines in, replies out, in order."""

    __slots__ = (
        "active", "closing", "ended", "herd", "idle_timer", "is_new", "line_timer", "log", "name",
        "paused", "reply_timer", "searching", "transport", "unread",
    )  # fmt: skip

    def __init__(self, herd: "Herd") -> None:
        self.herd = herd
        self.log = herd.settings.log
        self.name = ""
        self.unread = b""
        self.active = herd.loop.time()
        self.is_new = True  # The first line is not whole yet.
        self.ended = False  # The client sends nothing more.
        self.paused = False  # The client has yet to take replies.
        self.closing = False  # Nothing more is answered.
        self.searching: asyncio.Task[None] | None = None
        self.idle_timer: asyncio.TimerHandle | None = None
        self.line_timer: asyncio.TimerHandle | None = None
        self.reply_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admits the client, unless there are too many."""
        self.transport = cast(asyncio.Transport, transport)
        # So the session hears of whatever the client does not take at once, and knows since when.
        self.transport.set_write_buffer_limits(high=0)
        self.idle_timer = self.herd.loop.call_later(self.herd.settings.idle_timeout, self.check_idle)
        if self.log:
            self.name = peer_name(self.transport)
            self.log.info("client %s connected", self.name)
        self.herd.sessions.add(self)
        if len(self.herd.sessions) > self.herd.settings.max_clients:
            self.transport.write(FULL)
            self.finish("server full")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the client."""
        self.closing = True
        self.herd.sessions.discard(self)
        for timer in (self.idle_timer, self.line_timer, self.reply_timer, self.searching):
            if timer:
                timer.cancel()
        if self.log:
            self.log.info("client %s lost: %s", self.name, exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Takes what the client has sent."""
        if not self.closing:
            self.active = self.herd.loop.time()
            self.unread = self.unread + data if self.unread else data
            self.serve()

    def eof_received(self) -> bool:
        """Answers what is left; the last line may lack its ending."""
        self.ended = True
        if self.closing:
            self.transport.close()
            return True
        if self.unread and not self.unread.endswith(b"\n"):
            # A CR before the end of the stream belongs to no ending: this one does.
            self.unread += b"\r\n"
        self.serve()
        return True  # The replies may still be on their way.

    def pause_writing(self) -> None:
        """The client has not taken everything: until it has, there are no more replies."""
        self.paused = True
        self.transport.pause_reading()
        self.reply_timer = self.herd.loop.call_later(REPLY_TIMEOUT, self.abort, "reply not taken in time")

    def resume_writing(self) -> None:
        """The client has taken everything."""
        self.paused = False
        if self.reply_timer:
            self.reply_timer.cancel()
        self.go_on()

    def go_on(self) -> None:
        """Does what was put off."""
        if self.closing:
            self.drain()
            return
        self.serve()
        if not (self.ended or self.paused or self.searching or self.closing):
            self.transport.resume_reading()

    def serve(self) -> None:
        """Answers the whole lines that have come, as far as the client takes the replies."""
        while not (self.paused or self.searching or self.closing) and self.answer_some():
            pass

    def answer_some(self) -> bool:
        """Answers lines with one write; whether there may be more of them."""
        if self.is_new and self.turn_away():
            return False
        unread, start, replies, size = self.unread, 0, [], 0
        answer, log = self.herd.records.answer, self.log
        search = None
        while size < MAX_REPLIES and search is None:
            end = unread.find(b"\n", start, start + MAX_LINE + 2)
            if end < 0:
                break
            line = unread[start:end].removesuffix(b"\r")
            if len(line) > MAX_LINE:
                break
            start = end + 1
            reply = answer(line)
            if log:
                log.info("client %s > %s", self.name, printable(line))
            if isinstance(reply, Search):
                search = reply
            else:
                replies.append(reply)
                size += len(reply)
                if log:
                    log.info("client %s < %s", self.name, printable(reply))
        self.unread = unread[start:]
        if replies:
            self.transport.write(b"".join(replies))
            self.herd.flood()
        if start and self.line_timer:
            self.line_timer.cancel()
            self.line_timer = None
        if search:
            self.transport.pause_reading()
            self.searching = self.herd.loop.create_task(self.search(search))
        elif size >= MAX_REPLIES:
            return True
        else:
            self.look_at_rest()
        return False

    def turn_away(self) -> bool:
        """Closes if the first line is of HTTP or TLS; whether it is. Nothing behind it is carried out."""
        if self.unread.startswith(TLS_HANDSHAKE):
            self.finish("it speaks TLS")
        elif (end := self.unread.find(b"\n", 0, MAX_LINE + 2)) >= 0:
            self.is_new = False
            line = self.unread[:end].removesuffix(b"\r")
            if line.endswith(HTTP_VERSIONS) and len(line) <= MAX_LINE:
                reply = invalid(line)
                if self.log:
                    self.log.info("client %s > %s", self.name, printable(line))
                    self.log.info("client %s < %s", self.name, printable(reply))
                self.transport.write(reply)
                self.finish("it speaks HTTP")
        return self.closing

    def look_at_rest(self) -> None:
        """Handles an incomplete line, or none."""
        rest = self.unread
        # One byte over the limit may yet turn out to be the CR of an ending.
        if len(rest) > MAX_LINE + 1 or (len(rest) > MAX_LINE and not rest.endswith(b"\r")):
            reply = invalid(rest[:MAX_LINE])
            if self.log:
                self.log.info("client %s < %s", self.name, printable(reply))
            self.transport.write(reply)
            self.finish("line too long")
        elif self.ended:
            self.closing = True
            self.transport.close()  # Once everything is sent.
        elif rest and not self.line_timer:
            self.line_timer = self.herd.loop.call_later(LINE_TIMEOUT, self.finish, "line not finished in time")

    async def search(self, search: Search) -> None:
        """Completes a `WHATSAT`; the lines behind it wait."""
        reply = whatsat_reply(search.at, await self.herd.find_places(search))
        self.searching = None
        self.active = self.herd.loop.time()
        if self.log:
            self.log.info("client %s < %s", self.name, printable(reply))
        self.transport.write(reply)
        if not self.paused:
            self.go_on()

    def check_idle(self) -> None:
        """Closes a client that has said nothing for too long."""
        left = self.active + self.herd.settings.idle_timeout - self.herd.loop.time()
        if left > 0:
            self.idle_timer = self.herd.loop.call_later(left, self.check_idle)
        else:
            self.finish("idle for too long")

    def finish(self, reason: str) -> None:
        """Closes orderly, once the client has taken its replies."""
        if self.closing:
            return
        self.closing = True
        self.unread = b""
        if self.log:
            self.log.info("client %s closed: %s", self.name, reason)
        if not self.paused:
            self.drain()

    def drain(self) -> None:
        """Says that nothing more comes, and drops for a moment what the client still sends."""
        if self.ended or self.transport.is_closing():
            self.transport.close()
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self.idle_timer = self.herd.loop.call_later(DRAIN_TIMEOUT, self.transport.close)

    def abort(self, reason: str) -> None:
        """Drops a client that does not listen."""
        if self.log:
            self.log.info("client %s closed: %s", self.name, reason)
        self.transport.abort()


class Neighbor(asyncio.Protocol):
    """A neighbor's connection to this server: its name, then `AT` lines."""

    def __init__(self, herd: "Herd") -> None:
        self.herd = herd
        self.log = herd.settings.log
        self.name = ""
        self.unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Waits for the neighbor's name."""
        self.transport = cast(asyncio.Transport, transport)
        self.herd.peers.add(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self.herd.peers.discard(self.transport)
        if self.log:
            self.log.info("neighbor %s lost: %s", self.name or "unknown", exc or "closed")

    def data_received(self, data: bytes) -> None:
        """Takes the neighbor's lines, and passes new records on to the others."""
        *lines, self.unread = (self.unread + data).split(b"\n")
        for line in lines:
            if self.log:
                self.log.info("neighbor %s > %s", self.name or "unknown", printable(line))
            if not (self.herd.records.adopt(line) if self.name else self.introduce(line)):
                self.refuse("not what a neighbor says")
                break
        if len(self.unread) > MAX_PEER_LINE:
            self.refuse("line too long")
        self.herd.flood(self.name)

    def introduce(self, line: bytes) -> bool:
        """Takes the first line, which names the neighbor."""
        names = (neighbor.name for neighbor in self.herd.settings.neighbors)
        self.name = next((name for name in names if line == b"SERVER %b" % name.encode()), "")
        return bool(self.name)

    def refuse(self, reason: str) -> None:
        """Cuts the connection."""
        if self.log:
            self.log.warning("neighbor %s refused: %s", self.name or "unknown", reason)
        self.transport.abort()


class Herd:
    """One server: its records, its clients, its neighbors."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self.settings = settings
        self.loop = loop
        self.records = Records(
            settings.me.name, has_places=settings.provider is not None, max_records=settings.max_records
        )
        self.sessions: set[Session] = set()
        self.peers: set[asyncio.Transport] = set()
        self.links: dict[str, asyncio.WriteTransport] = {}
        self.http: aiohttp.ClientSession | None = None

    def flood(self, sender: str = "") -> None:
        """Sends new records to the neighbors, but not to the one that sent them."""
        if not self.records.news:
            return
        news = self.records.take_news()
        for name, transport in self.links.items():
            if name == sender:
                continue
            transport.write(news)
            if self.settings.log:
                for line in news.splitlines():
                    self.settings.log.info("neighbor %s < %s", name, printable(line))
            if transport.get_write_buffer_size() > MAX_UNSENT:
                transport.abort()

    async def keep_link(self, neighbor: Server) -> None:
        """Keeps a neighbor up to date: sends all records once it is reached, then new ones."""
        delay = FIRST_DELAY
        while True:
            try:
                reader, writer = await asyncio.open_connection(neighbor.peers.host, neighbor.peers.port)
            except OSError as error:
                self.note("neighbor %s can't be reached: %s", neighbor.name, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, LAST_DELAY)
                continue
            self.note("neighbor %s connected", neighbor.name)
            try:
                writer.write(b"SERVER %b\n" % self.settings.me.name.encode())
                self.links[neighbor.name] = writer.transport
                await self.catch_up(writer)
                delay = FIRST_DELAY
                await reader.read()  # It says nothing; this ends when it is gone.
            except OSError as error:
                self.note("neighbor %s: %s", neighbor.name, error)
            finally:
                self.links.pop(neighbor.name, None)
                writer.close()
            self.note("neighbor %s lost", neighbor.name)
            await asyncio.sleep(delay)

    async def catch_up(self, writer: asyncio.StreamWriter) -> None:
        """Sends a neighbor all that is known; it keeps what is new to it."""
        lines = [at for _, at in self.records.records.values()]
        for start in range(0, len(lines), CATCH_UP_RECORDS):
            writer.write(b"".join(lines[start : start + CATCH_UP_RECORDS]))
            await writer.drain()

    async def find_places(self, search: Search) -> bytes:
        """Asks the provider; the JSON text for the client, whatever happens."""
        provider = self.settings.provider
        assert provider
        if self.http is None:
            self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT))
        url = URL(provider.search_url(search), encoded=True)
        try:
            async with self.http.get(url, allow_redirects=False) as response:
                body = bytearray()
                async for chunk in response.content.iter_any():
                    body += chunk
                    if len(body) > MAX_BODY:
                        return provider.failure("The places provider's answer is too long.")
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError.
            self.note("places: %s", type(error).__name__)
            return provider.unreachable(type(error).__name__)
        return provider.answer(bytes(body), search)

    def note(self, message: str, *arguments: object) -> None:
        """Logs, if there is a log."""
        if self.settings.log:
            self.settings.log.info(message, *arguments)

    def keep_flushing(self) -> None:
        """Brings the log to its file now and then."""
        if self.settings.log:
            flush(self.settings.log)
            self.loop.call_later(FLUSH_INTERVAL, self.keep_flushing)

    async def run(self) -> None:
        """Serves until a signal says stop."""
        me, loop, stop = self.settings.me, self.loop, asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        listeners = []
        for protocol, address in ((Session, me.clients), (Neighbor, me.peers)):
            try:
                listener = await loop.create_server(
                    partial(protocol, self), address.host, address.port, backlog=BACKLOG
                )
            except OSError as error:
                fail(f"{me.name} can't listen on {address}: {os.strerror(error.errno) if error.errno else error}", 1)
            listeners.append(listener)
        links = [loop.create_task(self.keep_link(neighbor)) for neighbor in self.settings.neighbors]
        self.keep_flushing()
        ready(me)
        await stop.wait()
        for listener in listeners:
            listener.close()
        for session in list(self.sessions):
            session.finish("server stopping")
        deadline = loop.time() + STOP_TIMEOUT
        while self.sessions and loop.time() < deadline:
            await asyncio.sleep(0.01)
        for link in links:
            link.cancel()
        for peer in list(self.peers):
            peer.close()
        if self.http:
            await self.http.close()
        self.note("stopped")


def peer_name(transport: asyncio.BaseTransport) -> str:
    """The client's address."""
    peer = transport.get_extra_info("peername") or ("unknown", 0)
    return f"{peer[0]}:{peer[1]}"


def main(loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = None) -> None:
    """Runs the server, on the loop that the factory makes."""
    settings = read_settings()

    async def run() -> None:
        await Herd(settings, asyncio.get_running_loop()).run()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(run())


if __name__ == "__main__":
    main()
