"""`servers.txt`: the servers, their addresses, and their neighbors.

One line a server, `NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...`; `#` starts a comment. A file
with a fault is refused, and every fault in it is reported.
"""

import re
from dataclasses import dataclass
from pathlib import Path

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\[\]:]+)):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Server:
    """One server: a line of the file."""

    name: str
    clients: Address
    peers: Address
    neighbors: tuple[str, ...]


class TopologyError(Exception):
    """The file can't be used; the text has a line for each fault."""


def load(path: Path) -> dict[str, Server]:
    """The servers of a file by name. Raises `TopologyError`."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TopologyError(f"{path}: can't be read: {error}") from error
    servers: dict[str, tuple[int, Server]] = {}
    faults: list[tuple[int, str]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if server := parse_line(line):
                if server.name in servers:
                    raise ValueError(f"the name {server.name} is taken by line {servers[server.name][0]}")
                servers[server.name] = (number, server)
        except ValueError as error:
            faults.append((number, str(error)))
    if not faults:
        faults = together(servers)
    if faults:
        lines = (f"{path}:{number}: {what}" if number else f"{path}: {what}" for number, what in faults)
        raise TopologyError("\n".join(lines))
    return {name: server for name, (_, server) in servers.items()}


def parse_line(line: str) -> Server | None:
    """The server of a line, or nothing if it has none. Raises `ValueError`."""
    name, *rest = line.split("#", 1)[0].split() or [""]
    if not name:
        return None
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name: up to 64 letters, digits, '-', '_' and '.'")
    if len(rest) < 2:
        raise ValueError(f"{name} lacks an address: NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...")
    clients, peers = parse_address(rest[0]), parse_address(rest[1])
    neighbors = tuple(rest[2:])
    if name in neighbors:
        raise ValueError(f"{name} is named as its own neighbor")
    if len(set(neighbors)) < len(neighbors):
        raise ValueError(f"{name} names a neighbor twice")
    return Server(name, clients, peers, neighbors)


def parse_address(text: str) -> Address:
    """The address of `HOST:PORT` or `[IPV6]:PORT`. Raises `ValueError`."""
    match = ADDRESS.fullmatch(text)
    if not match or not 0 < int(match[3]) < 65536:
        raise ValueError(f"{text!r} is no address: HOST:PORT or [IPV6]:PORT, port 1 to 65535")
    return Address(match[1] or match[2], int(match[3]))


def together(servers: dict[str, tuple[int, Server]]) -> list[tuple[int, str]]:
    """Faults that only show when the lines are held against each other."""
    if not servers:
        return [(0, "names no server")]
    faults: list[tuple[int, str]] = []
    taken: dict[Address, str] = {}
    for number, server in servers.values():
        for address in (server.clients, server.peers):
            if address in taken:
                faults.append((number, f"the address {address} is taken by {taken[address]}"))
            taken[address] = server.name
        for neighbor in server.neighbors:
            if neighbor not in servers:
                faults.append((number, f"{server.name}'s neighbor {neighbor} is no server of this file"))
            elif server.name not in servers[neighbor][1].neighbors:
                faults.append((number, f"{neighbor} does not name {server.name} as its neighbor"))
    return faults
