"""The herd on Twisted, from the parts that the report names: `ServerFactory`, a `ClientFactory`
that reconnects, and `LineReceiver`. One reactor, one thread, callbacks.
"""

import socket
from collections.abc import Iterator
from typing import cast

from herd.places import MAX_BODY, TIMEOUT
from herd.program import Settings, fail, flush, printable, read_settings, ready
from herd.records import FULL, HTTP_VERSIONS, MAX_LINE, TLS_HANDSHAKE, Records, Search, invalid, whatsat_reply
from herd.topology import Address, Server
from twisted.internet import reactor as installed_reactor
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, ReconnectingClientFactory, ServerFactory, connectionDone
from twisted.internet.task import CooperativeTask, LoopingCall, cooperate
from twisted.internet.tcp import Connection
from twisted.protocols.basic import LineOnlyReceiver, LineReceiver
from twisted.protocols.policies import TimeoutMixin
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, ResponseDone
from twisted.web.iweb import IResponse
from zope.interface import implementer

reactor = cast(EPollReactor, installed_reactor)

BACKLOG = 4096
"""Connections that the kernel holds until they are accepted."""

LINE_TIMEOUT = 10.0
"""Seconds from a line's first byte to its last; past this the connection is closed."""

REPLY_TIMEOUT = 10.0
"""Seconds until a client must have taken its replies; past this the connection is closed."""

DRAIN_TIMEOUT = 1.0
"""Seconds that a closing connection drops what still comes: a plain close would reset it."""

STOP_TIMEOUT = 5.0
"""Seconds until clients must have taken what they are owed when the server stops."""

LINK_TIMEOUT = 10.0
"""Seconds until a neighbor must have taken what it was sent; past this the link is cut, and starts
again from the records."""

CATCH_UP_RECORDS = 1000
"""Records sent at once to a neighbor that has just been connected."""

FLUSH_INTERVAL = 0.2
"""Seconds until a logged line is in the file."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class Client(LineReceiver, TimeoutMixin):
    """One client: bounded lines in, replies out, in order.

    It is the transport's producer: with 64 KiB unsent (the transport's `bufferSize`) the transport
    pauses it, and `LineReceiver` then delivers no line until it is resumed.
    """

    delimiter = b"\n"
    MAX_LENGTH = MAX_LINE + 1  # The CR of an ending is part of what LineReceiver sees.
    transport: Connection

    def __init__(self, herd: "Herd", name: str) -> None:
        self.herd = herd
        self.log = herd.settings.log
        self.name = name
        self.holds: set[str] = set()  # Why no line is delivered.
        self.unfinished = 0  # Bytes behind the last line feed.
        self.is_new = True  # The first line is not whole yet.
        self.ended = False  # The client sends nothing more.
        self.closing = False  # Nothing more is answered.
        self.line_timer: DelayedCall | None = None
        self.produced = 0  # Bytes of replies so far.
        self.overdue_bytes = 0  # How many there were at `overdue_since`.
        self.overdue_since = 0.0
        self.searching: Deferred[None] | None = None

    def connectionMade(self) -> None:
        """Admits the client, unless there are too many."""
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.setTimeout(self.herd.settings.idle_timeout)
        if self.log:
            self.log.info("client %s connected", self.name)
        self.herd.clients.add(self)
        if len(self.herd.clients) > self.herd.settings.max_clients:
            self.transport.write(FULL)
            self.finish("server full")

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forgets the client."""
        self.closing = True
        self.herd.clients.discard(self)
        self.setTimeout(None)
        self.stop_line_timer()
        if self.searching:
            self.searching.cancel()
        if self.log:
            self.log.info("client %s lost: %s", self.name, reason.getErrorMessage())

    def dataReceived(self, data: bytes) -> None:
        """Delivers lines, and minds the one that is not whole."""
        self.resetTimeout()
        if self.is_new:
            data, self.unfinished = self.clearLineBuffer() + data, 0
            if self.turn_away(data):
                return
        end = data.rfind(b"\n") + 1
        self.unfinished = len(data) - end if end else self.unfinished + len(data)
        LineReceiver.dataReceived(self, data)
        if end:
            self.stop_line_timer()
        if not self.unfinished or self.paused or self.closing:
            return
        # One byte over the limit may yet turn out to be the CR of an ending.
        if self.unfinished > MAX_LINE and not data.endswith(b"\r"):
            self.lineLengthExceeded(self.clearLineBuffer())
        elif not self.line_timer:
            self.line_timer = reactor.callLater(LINE_TIMEOUT, self.finish, "line not finished in time")

    def turn_away(self, data: bytes) -> bool:
        """Closes if the first line is of HTTP or TLS; whether it is. Nothing behind it is carried out."""
        if data.startswith(TLS_HANDSHAKE):
            self.finish("it speaks TLS")
        elif (end := data.find(b"\n")) >= 0:
            self.is_new = False
            line = data[:end].removesuffix(b"\r")
            if line.endswith(HTTP_VERSIONS) and len(line) <= MAX_LINE:
                self.answer(line)
                self.finish("it speaks HTTP")
        return self.closing

    def lineReceived(self, line: bytes) -> None:
        """Answers a line."""
        self.answer(line.removesuffix(b"\r"))

    def lineLengthExceeded(self, line: bytes) -> None:
        """Answers a line that is too long, and closes."""
        self.send(invalid(line[:MAX_LINE]))
        self.finish("line too long")

    def answer(self, line: bytes) -> None:
        """Answers a line without its ending."""
        if len(line) > MAX_LINE:
            self.lineLengthExceeded(line)
            return
        if self.log:
            self.log.info("client %s > %s", self.name, printable(line))
        reply = self.herd.records.answer(line)
        if isinstance(reply, Search):
            self.hold("places")
            self.searching = self.herd.find_places(reply)
            self.searching.addCallback(self.found, reply)
        else:
            self.send(reply)
            self.herd.flood()

    def found(self, places: bytes, search: Search) -> None:
        """Completes a `WHATSAT`; the lines behind it have waited."""
        self.searching = None
        if self.closing:
            return
        self.send(whatsat_reply(search.at, places))
        if self.ended:
            self.close()
        else:
            self.release("places")

    def send(self, reply: bytes) -> None:
        """Sends a reply; the transport gathers those of one turn of the reactor."""
        if self.log:
            self.log.info("client %s < %s", self.name, printable(reply))
        self.produced += len(reply)
        self.transport.write(reply)

    def hold(self, why: str) -> None:
        """Delivers no more lines."""
        self.holds.add(why)
        LineReceiver.pauseProducing(self)

    def release(self, why: str) -> None:
        """Delivers lines again, unless something else is in the way."""
        self.holds.discard(why)
        if not self.holds and not self.ended:
            LineReceiver.resumeProducing(self)

    def pauseProducing(self) -> None:
        """The transport is full."""
        self.hold("transport")

    def resumeProducing(self) -> None:
        """The transport is empty again."""
        self.release("transport")

    def unsent(self) -> int:
        """Bytes that the client has yet to take. The transport has no method for it, so this looks inside."""
        transport = self.transport
        return len(transport.dataBuffer) - transport.offset + transport._tempDataLen

    def check_unsent(self, now: float) -> None:
        """Drops a client that does not take its replies; called every second.

        Once those that were unsent at one look are sent, the time of the later ones counts.
        """
        unsent = self.unsent()
        if not unsent or self.produced - unsent >= self.overdue_bytes:
            self.overdue_bytes = self.produced
            self.overdue_since = now
        elif now - self.overdue_since > REPLY_TIMEOUT:
            if self.log:
                self.log.info("client %s closed: reply not taken in time", self.name)
            self.transport.abortConnection()

    def readConnectionLost(self) -> None:
        """Answers what is left; the last line may lack its ending."""
        self.ended = True
        if not self.closing:
            self.stop_line_timer()
            if rest := self.clearLineBuffer():
                self.answer(rest)
        if not self.searching:
            self.close()

    def writeConnectionLost(self) -> None:
        """Never called over TCP."""

    def timeoutConnection(self) -> None:
        """Closes a client that has said nothing for too long."""
        self.finish("idle for too long")

    def stop_line_timer(self) -> None:
        """There is no unfinished line."""
        if self.line_timer:
            if self.line_timer.active():
                self.line_timer.cancel()
            self.line_timer = None

    def finish(self, reason: str) -> None:
        """Closes orderly: the end behind the replies; what the client still sends is dropped."""
        if self.closing:
            return
        self.closing = True
        if self.log:
            self.log.info("client %s closed: %s", self.name, reason)
        self.setTimeout(None)
        self.clearLineBuffer()
        self.setRawMode()
        self.transport.unregisterProducer()
        self.transport.loseWriteConnection()
        if not self.ended:
            LineReceiver.resumeProducing(self)
        reactor.callLater(DRAIN_TIMEOUT, self.end_drain)

    def end_drain(self) -> None:
        """Closes, once the replies are sent."""
        if self.unsent():
            reactor.callLater(DRAIN_TIMEOUT, self.end_drain)
        else:
            self.close()

    def rawDataReceived(self, data: bytes) -> None:
        """Drops what comes while the connection closes."""

    def close(self) -> None:
        """Closes once everything is sent."""
        self.closing = True
        self.transport.unregisterProducer()
        self.transport.loseConnection()


class ClientFactory(ServerFactory):
    """Makes a protocol for each client."""

    noisy = False

    def __init__(self, herd: "Herd") -> None:
        self.herd = herd

    def buildProtocol(self, addr: IAddress) -> Client:
        """Called for each connection."""
        return Client(self.herd, f"{addr.host}:{addr.port}")  # type: ignore[attr-defined]


class Neighbor(LineOnlyReceiver):
    """A neighbor's connection to this server: its name, then `AT` lines."""

    delimiter = b"\n"
    MAX_LENGTH = 1024  # More than any valid line has.
    transport: Connection

    def __init__(self, herd: "Herd") -> None:
        self.herd = herd
        self.name = ""

    def lineReceived(self, line: bytes) -> None:
        """Takes a record, and passes it on to the other neighbors if it was new."""
        self.herd.note("neighbor %s > %s", self.name or "unknown", line)
        if not self.name:
            names = (neighbor.name for neighbor in self.herd.settings.neighbors)
            self.name = next((name for name in names if line == b"SERVER %b" % name.encode()), "")
            is_good = bool(self.name)
        else:
            is_good = self.herd.records.adopt(line)
        if is_good:
            self.herd.flood(self.name)
        else:
            self.herd.note("neighbor %s refused: not what a neighbor says", self.name or "unknown")
            self.transport.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The neighbor is gone."""
        self.herd.note("neighbor %s lost: %s", self.name or "unknown", reason.getErrorMessage())


class NeighborFactory(ServerFactory):
    """Makes a protocol for each neighbor that connects."""

    noisy = False

    def __init__(self, herd: "Herd") -> None:
        self.herd = herd

    def buildProtocol(self, addr: IAddress) -> Neighbor:
        """Called for each connection."""
        return Neighbor(self.herd)


@implementer(IPushProducer)
class Link(Protocol):
    """This server's connection to a neighbor: what is known, then what is new."""

    transport: Connection

    def __init__(self, herd: "Herd", neighbor: str) -> None:
        self.herd = herd
        self.neighbor = neighbor
        self.catching_up: CooperativeTask[None] | None = None
        self.timer: DelayedCall | None = None

    def connectionMade(self) -> None:
        """Sends all that is known, a part for each turn of the reactor."""
        self.herd.note("neighbor %s connected", self.neighbor)
        self.transport.setTcpNoDelay(True)
        self.transport.registerProducer(self, True)
        self.transport.write(b"SERVER %b\n" % self.herd.settings.me.name.encode())
        self.herd.links[self.neighbor] = self.transport
        self.catching_up = cooperate(self.send_records())

    def send_records(self) -> Iterator[None]:
        """Sends the records; the neighbor keeps what is new to it."""
        lines = [at for _, at in self.herd.records.records.values()]
        for start in range(0, len(lines), CATCH_UP_RECORDS):
            self.transport.write(b"".join(lines[start : start + CATCH_UP_RECORDS]))
            yield
        self.catching_up = None

    def pauseProducing(self) -> None:
        """The neighbor has yet to take what it was sent."""
        self.timer = reactor.callLater(LINK_TIMEOUT, self.transport.abortConnection)
        if self.catching_up:
            self.catching_up.pause()

    def resumeProducing(self) -> None:
        """The neighbor has taken everything."""
        self.stop_timer()
        if self.catching_up:
            self.catching_up.resume()

    def stopProducing(self) -> None:
        """The connection is lost."""

    def stop_timer(self) -> None:
        """The neighbor takes what it is sent."""
        if self.timer and self.timer.active():
            self.timer.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The neighbor is gone; the factory tries again."""
        self.stop_timer()
        if self.catching_up:
            self.catching_up.stop()
        del self.herd.links[self.neighbor]
        self.herd.note("neighbor %s lost: %s", self.neighbor, reason.getErrorMessage())


class LinkFactory(ReconnectingClientFactory):
    """Keeps up the link to a neighbor."""

    noisy = False
    initialDelay = 0.1
    factor = 2
    maxDelay = 5

    def __init__(self, herd: "Herd", neighbor: Server) -> None:
        self.herd = herd
        self.neighbor = neighbor

    def buildProtocol(self, addr: IAddress) -> Link:
        """Called when the neighbor has been reached."""
        self.resetDelay()
        return Link(self.herd, self.neighbor.name)

    def clientConnectionFailed(self, connector: object, reason: Failure) -> None:
        """Tries again later."""
        self.herd.note("neighbor %s can't be reached: %s", self.neighbor.name, reason.getErrorMessage())
        super().clientConnectionFailed(connector, reason)


class Body(Protocol):
    """An answer of the places provider; `read` calls back with its bytes."""

    def __init__(self) -> None:
        self.bytes = bytearray()
        self.read: Deferred[bytes] = Deferred(lambda _: self.transport.loseConnection())

    def dataReceived(self, data: bytes) -> None:
        """Gathers the bytes, up to a limit."""
        self.bytes += data
        if len(self.bytes) > MAX_BODY:
            self.read.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The body is whole, or broken off."""
        if self.read.called:
            return
        if reason.check(ResponseDone):
            self.read.callback(bytes(self.bytes))
        else:
            self.read.errback(reason)


class Herd:
    """One server: its records, its clients, its neighbors."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.records = Records(
            settings.me.name, has_places=settings.provider is not None, max_records=settings.max_records
        )
        self.clients: set[Client] = set()
        self.links: dict[str, Connection] = {}
        self.agent = Agent(reactor, connectTimeout=TIMEOUT, pool=HTTPConnectionPool(reactor))

    def flood(self, sender: str = "") -> None:
        """Sends new records to the neighbors, but not to the one that sent them."""
        if not self.records.news:
            return
        news = self.records.take_news()
        for name, transport in self.links.items():
            if name != sender:
                transport.write(news)
                self.note("neighbor %s < %s", name, news)

    def find_places(self, search: Search) -> Deferred[bytes]:
        """Asks the provider; calls back with the JSON text for the client, whatever happens."""
        provider = self.settings.provider
        assert provider

        def received(response: IResponse) -> Deferred[bytes]:
            body = Body()
            response.deliverBody(body)
            return body.read

        def failed(reason: Failure) -> bytes:
            self.note("places: %s", reason.type.__name__)
            return provider.unreachable(reason.type.__name__)

        found = self.agent.request(b"GET", provider.search_url(search).encode())
        found.addCallback(received)
        found.addTimeout(TIMEOUT, reactor)
        found.addCallbacks(provider.answer, failed, callbackArgs=(search,))
        return found

    def note(self, message: str, *arguments: object) -> None:
        """Logs, if there is a log; bytes are made printable."""
        if self.settings.log:
            shown = (printable(a) if isinstance(a, bytes) else a for a in arguments)
            self.settings.log.info(message, *shown)

    def check_unsent(self) -> None:
        """Looks after clients that do not take their replies."""
        now = reactor.seconds()
        for client in list(self.clients):
            client.check_unsent(now)

    def listen(self, address: Address, factory: ServerFactory) -> None:
        """Binds a port; exits if that can't be done."""
        try:
            host = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0][4][0]
            reactor.listenTCP(address.port, factory, backlog=BACKLOG, interface=str(host))
        except (OSError, CannotListenError) as error:
            cause = error.socketError if isinstance(error, CannotListenError) else error
            fail(f"{self.settings.me.name} can't listen on {address}: {cause}", 1)

    def run(self) -> None:
        """Serves until a signal says stop."""
        me = self.settings.me
        self.listen(me.clients, ClientFactory(self))
        self.listen(me.peers, NeighborFactory(self))
        for neighbor in self.settings.neighbors:
            reactor.connectTCP(neighbor.peers.host, neighbor.peers.port, LinkFactory(self, neighbor))
        LoopingCall(self.check_unsent).start(1.0, now=False)
        if self.settings.log:
            LoopingCall(flush, self.settings.log).start(FLUSH_INTERVAL)
        reactor.addSystemEventTrigger("before", "shutdown", self.stop)
        reactor.callWhenRunning(ready, me)
        reactor.run()

    def stop(self) -> Deferred[None]:
        """Lets the clients take what they are owed."""
        stopped: Deferred[None] = Deferred()
        for client in list(self.clients):
            client.finish("server stopping")
        started = reactor.seconds()

        def check() -> None:
            if not self.clients or reactor.seconds() > started + STOP_TIMEOUT:
                waiting.stop()
                stopped.callback(None)

        waiting = LoopingCall(check)
        waiting.start(0.01, now=False)
        return stopped


if __name__ == "__main__":
    Herd(read_settings()).run()
