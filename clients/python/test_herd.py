"""Tests of the library against servers that follow a script, and against a herd.

The second need the environment variables that tests/libraries.sh sets; without them they are skipped.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import threading
import time
import unittest
import unittest.mock
from pathlib import Path
from typing import Callable

import herd

GREETING = b"HELLO 2 Fake 0.1.0\n"
RECORD = b"+0.000000001 kiwi +34.06893-118.445127 1479413884.392014450"


class Talk:
    """A client's connection at a scripted server."""

    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.lines = stream.makefile("rb")

    def expect(self, line: bytes) -> None:
        got = self.line()
        if got != line:
            raise AssertionError(f"expected {line!r}, got {got!r}")

    def line(self) -> bytes:
        return self.lines.readline().rstrip(b"\n")

    def send(self, *lines: bytes) -> None:
        self.stream.sendall(b"".join(line + b"\n" for line in lines))

    def greet(self) -> None:
        self.expect(b"HELLO 2")
        self.stream.sendall(GREETING)

    def until_closed(self) -> None:
        while self.lines.read1(65536):
            pass


class Fake:
    """A server whose connections follow one script each; later ones follow the last. A script that fails fails its
    test.
    """

    def __init__(self, test: unittest.TestCase, *scripts: Callable[[Talk], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = address_of(self.listener)
        self.scripts = scripts
        self.connections = 0
        self.faults: list[BaseException] = []
        self.thread = threading.Thread(target=self._accept)
        self.thread.start()
        test.addCleanup(self.stop, test)

    def _accept(self) -> None:
        talks = []
        while True:
            try:
                stream, _ = self.listener.accept()
            except OSError:
                break
            script = self.scripts[min(self.connections, len(self.scripts) - 1)]
            self.connections += 1
            talk = threading.Thread(target=self._talk, args=(stream, script))
            talk.start()
            talks.append(talk)
        for talk in talks:
            talk.join(10)

    def _talk(self, stream: socket.socket, script: Callable[[Talk], None]) -> None:
        stream.settimeout(10)
        with stream:
            try:
                script(Talk(stream))
            except (OSError, AssertionError) as error:
                if not isinstance(error, (ConnectionResetError, BrokenPipeError)):
                    self.faults.append(error)

    def stop(self, test: unittest.TestCase) -> None:
        # Closing alone would not wake `accept`.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.thread.join(10)
        test.assertEqual([], self.faults)


def answers(*replies: tuple[bytes, bytes]) -> Callable[[Talk], None]:
    """Returns a script: a greeting, then each of these commands with its reply, then until the client closes."""

    def script(talk: Talk) -> None:
        talk.greet()
        for command, reply in replies:
            talk.expect(command)
            talk.stream.sendall(reply)
        talk.until_closed()

    return script


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"{host}:{port}"


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return address_of(listener)


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.threads = threading.active_count()

    def herd(self, *servers: str, **options: object) -> herd.Herd:
        settings: dict = {"timeout": 5, "reply_timeout": 1, "shuffle": False, **options}
        made = herd.Herd(servers, **settings)
        self.addCleanup(made.close)
        return made


class Requests(Case):
    def test_a_report_with_its_texts(self) -> None:
        command = b"IAMAT kiwi +34.06893-118.445127 1479413884.392014450"
        fake = Fake(self, answers((command, b"AT Fake " + RECORD + b"\n")))
        receipt = self.herd(fake.address).report("kiwi", 34.06893, -118.445127, 1479413884392014450)
        self.assertTrue(receipt.current)
        record = receipt.record
        self.assertEqual(
            ("kiwi", "Fake", 34.06893, -118.445127), (record.client, record.server, record.lat, record.lon)
        )
        self.assertEqual(1479413884392014450, record.time_ns)
        self.assertEqual(1479413884392014451, record.received_ns)

    def test_texts_of_floats(self) -> None:
        for lat, lon, text in (
            (0.0, -0.0, b"+0.0-0.0"),
            (1e-7, -1e-13, b"+0.000000100000-0.000000000000"),
            (90, -180, b"+90.0-180.0"),
            (34.068930000000001, 0.1 + 0.2, b"+34.06893+0.300000000000"),
        ):
            self.assertEqual(text, herd._location(lat, lon))
        for wrong in (float("nan"), float("inf"), 90.0001):
            with self.assertRaises(herd.InvalidError) as caught:
                herd._location(wrong, 0)
            self.assertEqual("LOCATION", caught.exception.code)

    def test_what_must_not_be_sent_is_refused_before(self) -> None:
        connected = self.herd(closed_port())
        for client in ("", "a b", "a\nb", "x" * 256, b"\x0b", "\ud800"):
            with self.assertRaises(herd.InvalidError) as caught:
                connected.where(client)
            self.assertEqual("CLIENT", caught.exception.code)
        for wrong in (lambda: connected.report_text("a", "+1+1\nFORGET b", "1"), lambda: connected.nearby("+1-1", 1)):
            self.assertRaises(herd.InvalidError, wrong)
        self.assertRaises(TypeError, lambda: connected.report("a", 1, 1, 1.5))
        self.assertRaises(TypeError, lambda: connected.where(7))
        for servers in ([], ["host"], ["host:0"], ["host:x"]):
            self.assertRaises(ValueError, herd.Herd, servers)

    def test_ids_that_are_not_utf8(self) -> None:
        fake = Fake(self, answers((b"WHERE \xff\x00", b"AT Fake +0.0 \xff\x00 +1+1 1\n")))
        self.assertEqual(b"\xff\x00", self.herd(fake.address).where(b"\xff\x00").client)

    def test_old_is_success_for_the_same_report_alone(self) -> None:
        old = b"OLD Other +0.5 a +1.0+1.0 2\n"
        fake = Fake(self, answers((b"IAMAT a +1.0+1.0 2.000000000", old), (b"IAMAT a +1.0+1.0 1.000000000", old)))
        connected = self.herd(fake.address)
        self.assertTrue(connected.report("a", 1, 1, 2 * 10**9).current)
        receipt = connected.report("a", 1, 1, 10**9)
        self.assertFalse(receipt.current)
        self.assertEqual(("Other", 2 * 10**9), (receipt.record.server, receipt.record.time_ns))

    def test_lists_in_pieces_of_a_byte(self) -> None:
        reply = b"NEAR 0.000 AT A +0.0 a +1+1 1\nNEAR 7.250 AT B +0.0 b +2-2 2.5\n\n"

        def script(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"NEARBY +1.0+1.0 10 20")
            for byte in reply:
                talk.stream.sendall(bytes([byte]))
            talk.expect(b"WITHIN +1.0+170.0 +2.0-170.0 5")
            talk.send(b"")
            talk.until_closed()

        connected = self.herd(Fake(self, script).address)
        found = connected.nearby((1, 1), 10)
        self.assertEqual([(0.0, "a"), (7.25, "b")], [(near.km, near.record.client) for near in found])
        self.assertEqual(2_500_000_000, found[1].record.time_ns)
        self.assertEqual([], connected.within(1, 170, 2, -170, 5))

    def test_a_huge_reply(self) -> None:
        text = (
            b'{"results":[\n' + b",\n".join(b'"%s"' % (b"x" * 100_000) for _ in range(20)) + b'],\n"status":"OK"}\n\n'
        )
        fake = Fake(self, answers((b"WHATSAT kiwi 10 20", b"AT Fake " + RECORD + b"\n" + text)))
        places = self.herd(fake.address).whatsat("kiwi", 10, 20)
        self.assertEqual((20, "OK"), (len(places.answer["results"]), places.answer["status"]))

    def test_a_reply_without_an_end_is_given_up(self) -> None:
        def script(talk: Talk) -> None:
            talk.greet()
            talk.line()
            for _ in range(20):
                talk.stream.sendall(b"x" * (1 << 20))

        other = Fake(self, answers((b"WHERE kiwi", b"AT Fake " + RECORD + b"\n")))
        self.assertEqual("kiwi", self.herd(Fake(self, script).address, other.address).where("kiwi").client)

    def test_errors_by_code(self) -> None:
        cases = {
            "SYNTAX": herd.InvalidError,
            "AHEAD": herd.AheadError,
            "FORGOTTEN": herd.ForgottenError,
            "UNKNOWN": herd.UnknownError,
            "FULL": herd.FullError,
            "DENIED": herd.DeniedError,
            "BUSY": herd.BusyError,
            "SOMETHING-NEW": herd.RefusedError,
        }
        fake = Fake(self, answers(*((b"WHERE a", f"ERR {code} the reason\n".encode()) for code in cases)))
        connected = self.herd(fake.address)
        for code, kind in cases.items():
            with self.assertRaises(herd.RefusedError) as caught:
                connected.where("a")
            self.assertIs(kind, type(caught.exception))
            self.assertEqual((code, "the reason"), (caught.exception.code, caught.exception.text))
        self.assertEqual(1, fake.connections)
        self.assertTrue(issubclass(herd.InvalidError, ValueError) and issubclass(herd.UnknownError, LookupError))

    def test_the_token_is_sent_once_the_dialect_is_known(self) -> None:
        def script(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"AUTH secret")
            talk.send(b"WELCOME app")
            talk.expect(b"PING")
            talk.send(b"PONG")
            talk.until_closed()

        self.assertLess(self.herd(Fake(self, script).address, token="secret").ping(), 1)
        denied = Fake(self, answers((b"AUTH wrong", b"ERR DENIED no such token\n")))
        self.assertRaises(herd.DeniedError, self.herd(denied.address, token="wrong").ping)

    def test_times_rise(self) -> None:
        connected = self.herd(closed_port())
        times = [connected._now() for _ in range(10_000)]
        self.assertEqual(sorted(set(times)), times)
        self.assertLess(abs(times[-1] - time.time_ns()), 10**9)


class FailOver(Case):
    def test_the_next_server_gets_what_the_first_did_not_answer(self) -> None:
        def dies(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.stream.sendall(b"AT Fake +0.0")

        def silent(talk: Talk) -> None:
            talk.greet()
            talk.until_closed()

        def wrong(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"AT Fake +0.0 another +1+1 1")
            talk.until_closed()

        def old(talk: Talk) -> None:
            talk.expect(b"HELLO 2")
            talk.send(b"? HELLO 2")
            talk.until_closed()

        def full(talk: Talk) -> None:
            talk.send(b"? server full")
            talk.until_closed()

        good = Fake(self, answers((b"WHERE kiwi", b"AT Fake " + RECORD + b"\n")))
        bad = [Fake(self, script) for script in (dies, silent, wrong, old, full)]
        connected = self.herd(closed_port(), *(fake.address for fake in bad), good.address, reply_timeout=0.2)
        self.assertEqual("kiwi", connected.where("kiwi").client)
        self.assertEqual([1] * 6, [fake.connections for fake in (*bad, good)])
        self.assertEqual("Fake", connected.server)

    def test_codes_of_one_server_go_on_at_another(self) -> None:
        for code in (b"REMOVED", b"UNWRITABLE", b"STARTING"):
            command = b"IAMAT a +1.0+1.0 1.000000000"
            refuses = Fake(self, answers((command, b"ERR %s not here\n" % code)))
            takes = Fake(self, answers((command, b"AT Fake +0.0 a +1.0+1.0 1.000000000\n")))
            self.assertTrue(self.herd(refuses.address, takes.address).report("a", 1, 1, 10**9).current)
            # Everywhere the same: the error says so, after some rounds.
            refuses = Fake(self, answers((command, b"ERR %s not here\n" % code)))
            with self.assertRaises(herd._ERRORS[code.decode()]):
                self.herd(refuses.address, max_attempts=3).report("a", 1, 1, 10**9)
            self.assertEqual(3, refuses.connections)

    def test_the_deadline_is_a_total(self) -> None:
        def drips(talk: Talk) -> None:
            talk.greet()
            talk.line()
            while True:
                talk.stream.sendall(b"x")
                time.sleep(0.02)

        connected = self.herd(Fake(self, drips).address, closed_port(), timeout=0.5, reply_timeout=0.3)
        began = time.monotonic()
        with self.assertRaises(herd.UnavailableError) as caught:
            connected.where("a")
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(1, len(caught.exception.reasons))

    def test_nobody_there(self) -> None:
        servers = closed_port(), closed_port()
        began = time.monotonic()
        with self.assertRaises(herd.UnavailableError) as caught:
            self.herd(*servers, timeout=0.5).ping()
        self.assertLess(time.monotonic() - began, 2)
        self.assertEqual(set(servers), set(caught.exception.reasons))

    def test_a_connection_closed_while_idle_is_made_again_at_the_same_server(self) -> None:
        def once(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"PING")
            talk.send(b"PONG")

        first = Fake(self, once, answers((b"PING", b"PONG\n")))
        second = Fake(self, answers())
        connected = self.herd(first.address, second.address)
        connected.ping()
        deadline = time.monotonic() + 5
        while connected._connection.is_usable() and time.monotonic() < deadline:
            time.sleep(0.001)
        connected.ping()
        self.assertEqual((2, 0), (first.connections, second.connections))

    def test_a_forked_process_makes_a_connection_of_its_own(self) -> None:
        fake = Fake(self, answers((b"PING", b"PONG\n")))
        connected = self.herd(fake.address)
        connected.ping()
        with unittest.mock.patch("os.getpid", return_value=os.getpid() + 1):
            connected.ping()
            self.assertEqual(2, fake.connections)

    def test_an_interrupt_leaves_no_reply_to_the_next_command(self) -> None:
        def late(talk: Talk) -> None:
            talk.greet()
            talk.line()
            os.kill(os.getpid(), signal.SIGUSR1)
            talk.until_closed()

        def interrupt(*_: object) -> None:
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGUSR1, interrupt)
        self.addCleanup(signal.signal, signal.SIGUSR1, before)
        fake = Fake(self, late, answers((b"PING", b"PONG\n")))
        connected = self.herd(fake.address, reply_timeout=5)
        self.assertRaises(KeyboardInterrupt, connected.where, "a")
        connected.ping()
        self.assertEqual(2, fake.connections)

    def test_many_reports_go_on_where_they_were_not_answered(self) -> None:
        seen: list[bytes] = []

        def server(count: int) -> Callable[[Talk], None]:
            def script(talk: Talk) -> None:
                talk.greet()
                while len(seen) < count and (line := talk.line()):
                    _, client, location, moment = line.split()
                    seen.append(client)
                    if client == b"c5":
                        talk.send(b"ERR FULL no room")
                    else:
                        talk.send(b" ".join((b"AT Fake +0.0", client, location, moment)))

            return script

        first, second = Fake(self, server(100)), Fake(self, server(10_000))
        reports = [herd.Report(f"c{n}", 1, 1, n) if n != 7 else herd.Report("a b", 1, 1) for n in range(3_000)]
        results = self.herd(first.address, second.address).report_many(iter(reports))
        self.assertEqual(3_000, len(results))
        for number, (report, result) in enumerate(zip(reports, results)):
            if number in (5, 7):
                self.assertEqual("FULL" if number == 5 else "CLIENT", result.code)
            else:
                self.assertEqual((report.client, number), (result.record.client, result.record.time_ns))
        self.assertEqual((1, 1), (first.connections, second.connections))

    def test_many_reports_that_end_early_keep_their_answers(self) -> None:
        def script(talk: Talk) -> None:
            talk.greet()
            _, *fields = talk.line().split()
            talk.send(b"AT Fake +0.0 " + b" ".join(fields))

        fake = Fake(self, script, lambda talk: None)
        with self.assertRaises(herd.UnavailableError) as caught:
            self.herd(fake.address, timeout=0.3).report_many([("a", 1, 1), ("b", 1, 1)])
        first, second = caught.exception.results
        self.assertEqual(("a", None), (first.record.client, second))


def push(word: str, client: str, moment: int, place: str = "+1+1", name: str = "w") -> bytes:
    return f"{word} {name} AT Fake +0.0 {client} {place} {moment}".encode()


class Watching(Case):
    def told(self, watcher: herd.Watcher, count: int) -> list[tuple]:
        events = []
        for _ in range(count):
            event = watcher.poll(5)
            self.assertIsNotNone(event, f"only {events}")
            events.append((event.kind, event.client, event.record.time_ns // 10**9 if event.record else event.total))
        return events

    def watcher(self, *servers: str, **options: float) -> herd.Watcher:
        watcher = self.herd(*servers, reply_timeout=0.5).watch_area(1, 1, 5, "w", **options)
        self.addCleanup(watcher.close)
        return watcher

    def test_after_a_loss_only_the_difference_is_told(self) -> None:
        def first(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"WATCH w +1.0+1.0 5")
            talk.send(b"WATCHING w", b"RESET w")
            talk.send(*(push("INSIDE", client, 10) for client in "abcde"), b"SETTLED w 5")
            talk.send(push("MOVE", "a", 11), push("ENTER", "f", 10), push("LEAVE", "b", 12, "+9+9"), b"GONE w c")

        def second(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"WATCH w +1.0+1.0 5")
            # A push of a watch that is not confirmed is of an older one.
            talk.send(push("INSIDE", "zombie", 1), b"WATCHING w", b"RESET w")
            # a as before; d moved; e older than told; f left; g came.
            talk.send(push("INSIDE", "a", 11), push("INSIDE", "d", 20), push("INSIDE", "e", 9), push("ENTER", "g", 21))
            talk.send(b"SETTLED w 4", push("MOVE", "e", 10), push("MOVE", "e", 30))
            # An overflow of this watch's marks.
            talk.send(
                b"RESET w", push("INSIDE", "a", 11), push("MOVE", "g", 31), push("INSIDE", "g", 31), b"SETTLED w 2"
            )
            talk.until_closed()

        watcher = self.watcher(Fake(self, first).address, Fake(self, second).address)
        self.assertEqual([("inside", client, 10) for client in "abcde"] + [("settled", None, 5)], self.told(watcher, 6))
        self.assertEqual(
            [("move", "a", 11), ("enter", "f", 10), ("leave", "b", 12), ("gone", "c", 10)], self.told(watcher, 4)
        )
        self.assertEqual([("move", "d", 20), ("enter", "g", 21), ("leave", "f", 10)], self.told(watcher, 3))
        self.assertEqual([("move", "e", 30), ("move", "g", 31)], self.told(watcher, 2))
        self.assertEqual({("leave", "d", 20), ("leave", "e", 30)}, set(self.told(watcher, 2)))
        self.assertIsNone(watcher.poll(0.05))

    def test_a_first_filling_that_breaks_off_goes_on(self) -> None:
        def half(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", push("INSIDE", "a", 1))
            talk.stream.sendall(b"INSIDE w AT Fa")

        def whole(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", push("INSIDE", "a", 1), push("INSIDE", "b", 1), b"SETTLED w 2")
            talk.until_closed()

        watcher = self.watcher(Fake(self, half, whole).address)
        self.assertEqual([("inside", "a", 1), ("inside", "b", 1), ("settled", None, 2)], self.told(watcher, 3))

    def test_several_watches_with_pushes_between_replies(self) -> None:
        def script(talk: Talk) -> None:
            talk.greet()
            talk.expect(b"WATCH w +1.0+1.0 5")
            talk.expect(b"WATCH watch-1 \xff")
            talk.send(b"WATCHING w", b"RESET w", b"SETTLED w 0", push("ENTER", "a", 1))
            talk.stream.sendall(b"ERR BUSY 64 watches\n")
            talk.expect(b"WATCH k kiwi")
            talk.send(
                push("MOVE", "a", 2), b"WATCHING k", b"RESET k", b"SETTLED k 0", push("MOVE", "kiwi", 3, name="k")
            )
            talk.expect(b"UNWATCH w")
            talk.send(push("MOVE", "a", 4), b"UNWATCHED w", b"GONE k kiwi")
            talk.until_closed()

        watcher = self.watcher(Fake(self, script).address)
        self.assertEqual("watch-1", watcher.add_client(b"\xff"))
        self.assertEqual([("settled", None, 0), ("enter", "a", 1)], self.told(watcher, 2))
        with self.assertRaises(herd.BusyError) as caught:
            watcher.poll(5)
        self.assertEqual("watch-1", caught.exception.watch)
        watcher.add_client("kiwi", "k")
        self.assertEqual([("move", "a", 2), ("settled", None, 0), ("move", "kiwi", 3)], self.told(watcher, 3))
        watcher.remove("w")
        self.assertEqual([("gone", "kiwi", 3)], self.told(watcher, 1))
        self.assertRaises(herd.UnknownError, watcher.remove, "w")
        self.assertRaises(herd.InvalidError, watcher.add_client, "x", "k")

    def test_a_silent_server_is_asked_and_left(self) -> None:
        def frozen(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", b"SETTLED w 0")
            talk.expect(b"PING")
            talk.send(b"PONG")
            talk.expect(b"PING")
            talk.until_closed()

        def other(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", push("INSIDE", "a", 1), b"SETTLED w 1")
            talk.until_closed()

        watcher = self.watcher(Fake(self, frozen).address, Fake(self, other).address, ping_interval=0.05)
        self.assertEqual([("settled", None, 0), ("enter", "a", 1)], self.told(watcher, 2))

    def test_a_slow_consumer_leaves_the_rest_at_the_server(self) -> None:
        sent = []

        def script(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", b"SETTLED w 0", push("ENTER", "a", 1))
            talk.stream.settimeout(0.3)
            try:
                for number in range(2, 1_000_000):
                    talk.send(push("MOVE", "a", number) + b"0" * 200)
                    sent.append(number)
            except socket.timeout:
                pass

        watcher = self.watcher(Fake(self, script).address)
        self.assertEqual([("settled", None, 0), ("enter", "a", 1)], self.told(watcher, 2))
        while not sent:
            time.sleep(0.01)
        watcher.poll(5)
        self.assertLess(len(sent), 100_000)

    def test_closing_ends_a_waiting_iterator_and_leaves_no_thread(self) -> None:
        def script(talk: Talk) -> None:
            talk.greet()
            talk.line()
            talk.send(b"WATCHING w", b"RESET w", b"SETTLED w 0")
            talk.until_closed()

        fake = Fake(self, script)
        watcher = self.watcher(fake.address)
        self.assertEqual([("settled", None, 0)], self.told(watcher, 1))
        threads = threading.active_count()
        timer = threading.Timer(0.05, watcher.close)
        timer.start()
        self.assertEqual([], list(watcher))
        timer.join()
        self.assertLessEqual(threading.active_count(), threads)
        self.assertRaises(herd.UnavailableError, watcher.poll, 1)
        self.assertRaises(herd.UnavailableError, watcher.add_client, "a")
        with self.watcher(fake.address) as other:
            for event in other:
                self.assertEqual("settled", event.kind)
                break
        self.assertEqual([], list(other))

    def test_without_any_server_its_patience_ends(self) -> None:
        servers = closed_port(), closed_port()
        watcher = self.watcher(*servers, patience=0.2)
        for _ in range(2):
            with self.assertRaises(herd.UnavailableError) as caught:
                next(watcher)
            self.assertEqual(set(servers), set(caught.exception.reasons))
        self.assertIsNone(watcher.poll(0))


class ManyStories(unittest.TestCase):
    """Servers that are behind each other, break off, and tell a watch the same story."""

    def test_what_was_told_ends_as_what_is(self) -> None:
        for seed in range(300):
            with self.subTest(seed=seed):
                self.follow(random.Random(seed))

    def follow(self, chance: random.Random) -> None:
        # The events: reports inside (True) and outside (False), and ends of clients (None).
        story = [(chance.choice("abcdef"), chance.choice([True, True, False, None])) for _ in range(60)]
        watch = herd._Watch("w", b"+1+1 5", is_area=True)
        told: dict[str, int] = {}
        for connection in range(4):
            last = connection == 3
            # A server knows the beginning of the story, and learns the rest while it fills the watch and after.
            known = chance.randrange(len(story))
            inside: dict[str, int] = {}
            for moment in range(known):
                self.happens(story, moment, inside)
            self.tell(watch, told, b"RESET", b"")
            untold, settled = set("abcdef"), False
            while known < len(story) or not settled:
                if not last and chance.random() < 0.03:
                    break
                if chance.random() < 0.03:
                    # An overflow of its marks: what was not told yet never is.
                    while known < len(story) and chance.random() < 0.7:
                        self.happens(story, known, inside)
                        known += 1
                    untold, settled = set("abcdef"), False
                    self.tell(watch, told, b"RESET", b"")
                elif untold and chance.random() < 0.6:
                    client = chance.choice(sorted(untold))
                    untold.remove(client)
                    if client in inside:
                        self.tell(watch, told, b"INSIDE", self.line(client, inside[client]))
                elif not untold and not settled:
                    settled = True
                    self.tell(watch, told, b"SETTLED", b"%d" % len(inside))
                elif known < len(story):
                    client = story[known][0]
                    word = self.happens(story, known, inside)
                    if word is not None and client not in untold:
                        self.tell(watch, told, word, client.encode() if word == b"GONE" else self.line(client, known))
                    known += 1
            # As a lost connection does.
            if not last:
                watch.seen = None
        self.assertEqual(inside, told)

    @staticmethod
    def line(client: str, moment: int) -> bytes:
        return f"AT Fake +0.0 {client} +1+1 {moment}".encode()

    @staticmethod
    def happens(story: list[tuple], moment: int, inside: dict[str, int]) -> bytes | None:
        client, is_inside = story[moment]
        was = inside.pop(client, None) is not None
        if is_inside:
            inside[client] = moment
            return b"MOVE" if was else b"ENTER"
        if not was:
            return None
        return b"GONE" if is_inside is None else b"LEAVE"

    def tell(self, watch: herd._Watch, told: dict[str, int], word: bytes, rest: bytes) -> None:
        for event in watch.push(word, rest):
            if event.kind == "settled":
                continue
            before = told.pop(event.client, None)
            # Nobody enters twice, and nobody leaves or moves who is not inside.
            self.assertEqual(event.kind in ("inside", "enter"), before is None, event)
            if event.kind in ("inside", "enter", "move"):
                told[event.client] = event.record.time_ns // 10**9
                self.assertGreater(told[event.client], -1 if before is None else before, event)


@unittest.skipUnless("HERD_SERVERS" in os.environ, "tests/libraries.sh runs it with a herd")
class RealHerd(Case):
    """A herd whose addresses are in HERD_SERVERS, with HERD_RUN as the run.sh of its servers, and HERD_STATE its state
    directory.
    """

    def setUp(self) -> None:
        super().setUp()
        self.servers = os.environ["HERD_SERVERS"].split()
        self.prefix = f"python-{os.getpid()}-{self.id().rpartition('.')[2]}"

    def client(self, name: object) -> str:
        return f"{self.prefix}-{name}"

    def kill(self, name: str) -> None:
        """Kills a server, and starts it when the test ends."""
        pid = int((Path(os.environ["HERD_STATE"]) / f"{name}.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self.addCleanup(
            subprocess.run,
            [os.environ["HERD_RUN"], "start", name, "--detach"],
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def everywhere(self, condition: Callable[[herd.Herd], bool]) -> None:
        """Waits until it holds at each server."""
        for server in self.servers:
            asked = self.herd(server)
            deadline = time.monotonic() + 10
            while not condition(asked):
                self.assertLess(time.monotonic(), deadline, server)
                time.sleep(0.01)

    def test_questions(self) -> None:
        connected = self.herd(*self.servers)
        kiwi, tui = self.client("kiwi"), self.client("tui").encode() + b"\xff"
        self.assertRaises(herd.UnknownError, connected.where, kiwi)
        receipt = connected.report(kiwi, -41.28664, 174.77557)
        self.assertTrue(receipt.current)
        self.assertTrue(connected.report(kiwi, -41.28664, 174.77557, receipt.record.time_ns).current)
        self.assertFalse(connected.report(kiwi, -41.28664, 174.77557, receipt.record.time_ns - 1).current)
        self.assertTrue(connected.report_text(tui, "-41.29-0180", "1479413884.392014450").current)
        self.assertTrue(connected.report_text(tui, "-41.29+174.78", "1479413884.39201446").current)
        record = connected.where(tui)
        self.assertEqual((tui, "-41.29+174.78", "1479413884.39201446"), (*record[:1], *record[2:4]))
        near = connected.nearby(kiwi, 5, 10)
        self.assertEqual([tui], [found.record.client for found in near])
        self.assertTrue(0.3 < near[0].km < 1, near)
        self.assertEqual({kiwi, tui}, {found.record.client for found in connected.nearby((-41.287, 174.776), 5)})
        self.assertEqual({kiwi, tui}, {found.client for found in connected.within(-42, 174, -41, 175)})
        self.assertEqual("OK", connected.whatsat(kiwi, 10, 1).answer["status"])
        self.assertRaises(herd.InvalidError, connected.nearby, kiwi, 30_000)
        self.assertRaises(herd.AheadError, connected.report, kiwi, 1, 1, time.time_ns() + 10**12)
        self.assertEqual(kiwi, connected.forget(kiwi).client)
        self.assertRaises(herd.UnknownError, connected.where, kiwi)
        self.assertRaises(herd.ForgottenError, connected.report, kiwi, 1, 1, receipt.record.time_ns)
        self.assertTrue(connected.forget(tui).time_ns > receipt.record.time_ns)

    def test_reports_while_a_server_is_killed(self) -> None:
        connected = self.herd(*self.servers, timeout=15)
        connected.ping()
        victim = connected.server
        reports = ((self.client(number % 500), 10 + number / 1e5, 20.0) for number in range(10_000))

        def kills() -> None:
            for number, report in enumerate(reports):
                if number == 5_000:
                    self.kill(victim)
                yield report

        results = connected.report_many(kills())
        self.assertNotEqual(victim, connected.server)
        self.assertEqual([], [result for result in results if not getattr(result, "current", False)])
        survivors = [server for server in self.servers if server != self.servers[0]]
        for server in survivors:
            asked = self.herd(server)
            for client in {result.record.client: result.record for result in results}.values():
                deadline = time.monotonic() + 10
                while True:
                    try:
                        found = asked.where(client.client)
                    except herd.UnknownError:
                        found = None
                    if found is not None and found.time_ns >= client.time_ns:
                        break
                    self.assertLess(time.monotonic(), deadline)
                    time.sleep(0.01)

    def test_a_watch_goes_on_when_its_server_is_killed(self) -> None:
        reporter = self.herd(*reversed(self.servers), timeout=15)
        inside, moved, gone = self.client("inside"), self.client("moved"), self.client("gone")
        for client in (inside, moved, gone):
            reporter.report(client, 50, 60)
            # Another run counts who is here.
            self.addCleanup(reporter.forget, client)
        self.everywhere(lambda asked: len(asked.nearby((50, 60), 5)) == 3)
        watcher = self.herd(*self.servers).watch_area(50, 60, 5, "area")
        self.addCleanup(watcher.close)
        watcher.add_client(moved, "one")

        def told(count: int) -> list[tuple]:
            events = []
            for _ in range(count):
                event = watcher.poll(10)
                self.assertIsNotNone(event, f"only {events}")
                events.append((event.watch, event.kind, event.client or event.total))
            return events

        first = told(6)
        self.assertEqual(
            {inside, moved, gone}, {what for name, kind, what in first if (name, kind) == ("area", "inside")}
        )
        self.assertEqual(
            {("area", "settled", 3), ("one", "settled", 1), ("one", "inside", moved)},
            {event for event in first if event[:2] != ("area", "inside")},
        )
        victim = watcher.server
        self.kill(victim)
        reporter.report(moved, 50.001, 60)
        reporter.report(inside, 70, 70)
        reporter.forget(gone)
        events = set(told(4))
        self.assertIn(("area", "move", moved), events)
        self.assertIn(("one", "move", moved), events)
        self.assertIn(("area", "leave", inside), events)
        self.assertTrue(events & {("area", "leave", gone), ("area", "gone", gone)}, events)
        self.assertNotEqual(victim, watcher.server)
        reporter.report(inside, 50, 60)
        self.assertEqual([("area", "enter", inside)], told(1))


if __name__ == "__main__":
    unittest.main()
