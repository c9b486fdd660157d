"""A courier enters an area, moves in it and leaves it, under the eyes of a watcher.

Usage: python3 example.py [HOST:PORT...]   the client addresses of some servers of a herd, or of all;
                                           without any, those of the herd that ./run.sh starts
"""

from __future__ import annotations

import sys

import herd

SERVERS = [f"127.0.0.1:{port}" for port in range(12000, 12005)]
COURIER = "courier.example"


def main(servers: list[str]) -> None:
    """Reports, asks and watches, and prints what comes."""
    with herd.Herd(servers) as h, h.watch_area(34.07, -118.445, radius_km=2, name="campus") as events:
        for event in events:
            # Others may be there.
            if event.client not in (None, COURIER):
                continue
            print(event.kind, event.record.location_text if event.record else f"{event.total} clients")
            if event.kind == "settled":
                h.report(COURIER, 34.06893, -118.445127)
                h.report_many([("kiwi.example", 34.0700, -118.4400), ("tui.example", 34.0800, -118.4700)])
            elif event.kind == "enter":
                for near in h.nearby(COURIER, radius_km=10, limit=3):
                    print("  near:", near.record.client, near.km, "km")
                for place in h.whatsat(COURIER, radius_km=10, limit=2).answer["results"]:
                    print("  near:", place["name"])
                h.report(COURIER, 34.0750, -118.4440)
            elif event.kind == "move" and event.record:
                # At a time of one's own: integer nanoseconds.
                h.report(COURIER, 34.1, -118.3, event.record.time_ns + 1_000_000)
            elif event.kind == "leave":
                break
        for client in (COURIER, "kiwi.example", "tui.example"):
            h.forget(client)
        try:
            h.where(COURIER)
        except herd.UnknownError as error:
            print(error.code)


if __name__ == "__main__":
    try:
        main(sys.argv[1:] or SERVERS)
    except herd.HerdError as error:
        sys.exit(f"example.py: {error}")
