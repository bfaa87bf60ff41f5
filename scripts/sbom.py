#!/usr/bin/env python3
"""What is built into the programs that are shipped: a CycloneDX 1.5 list, and the texts of the licences.

    scripts/sbom.py --sbom FILE --licences FILE

Asks cargo for what the four programs are linked with on x86-64 Linux: no tests, no build scripts, no macros. Checksums are
Cargo.lock's. It ends with status 1 where a crate has no licence or no checksum. The same source gives the same bytes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tomllib
import uuid
from datetime import datetime, timezone
from pathlib import Path

PROGRAMS = ["thruway", "thruway-hook", "thruway-node", "thruway-runtime"]
TARGET = "x86_64-unknown-linux-gnu"
HOME = Path(__file__).resolve().parent.parent
TEXTS = re.compile(r"^(licen[cs]e|copying|copyright|notice|unlicense)", re.IGNORECASE)
# Built into thruway-hook and thruway-runtime by the linker, and into all four by rustc.
LIBRARIES = {"glibc": "LGPL-2.1-or-later", "libgcc": "GPL-3.0-or-later WITH GCC-exception-3.1"}


def cargo(*words):
    run = subprocess.run(["cargo", *words, "--locked", "--offline"], cwd=HOME, capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"sbom.py: cargo {words[0]}: {run.stderr.strip()}")
    return run.stdout


def linked():
    """(name, version) of each crate, and of which others each is made."""
    packages = [word for program in PROGRAMS for word in ("-p", program)]
    edges, way = {}, []
    shape = ["--prefix", "depth", "--format", " {p}", "--target", TARGET]
    for line in cargo("tree", "-e", "normal,no-proc-macro", *packages, *shape).splitlines():
        if not line.strip():
            continue
        depth, name, version = line.split()[:3]
        crate = (name, version.removeprefix("v"))
        way = way[: int(depth)] + [crate]
        edges.setdefault(crate, set())
        if len(way) > 1:
            edges[way[-2]].add(crate)
    return edges


def reference(crate):
    return f"pkg:cargo/{crate[0]}@{crate[1]}"


def component(crate, package, checksum, bad):
    made = {"type": "library", "bom-ref": reference(crate), "name": crate[0], "version": crate[1], "purl": reference(crate)}
    licence = " ".join((package["license"] or "").replace("/", " OR ").split())
    if licence:
        made["licenses"] = [{"expression": licence}]
    else:
        bad.append(f"{crate[0]} {crate[1]} names no licence")
    if package["source"]:
        if checksum:
            made["hashes"] = [{"alg": "SHA-256", "content": checksum}]
        else:
            bad.append(f"{crate[0]} {crate[1]} has no checksum in Cargo.lock")
    return made


def texts(package):
    folder = Path(package["manifest_path"]).parent
    found = sorted(path for path in folder.iterdir() if path.is_file() and TEXTS.match(path.name))
    return [path.read_text(encoding="utf-8", errors="replace").strip() for path in found]


def licences(crates, packages):
    """Each text once, with the crates of others that are under it."""
    by_text, none = {}, []
    for crate in crates:
        package = packages[crate]
        found = texts(package)
        if not package["source"]:
            continue
        if not found:
            authors = ", ".join(package["authors"]) or "no authors named"
            none.append(f"{crate[0]} {crate[1]}: {package['license']} ({authors}); it ships no text of it")
        for text in found:
            by_text.setdefault(text, []).append(f"{crate[0]} {crate[1]}")
    parts = ["What is built into thruway's programs, and under which licences.\n"]
    for text, users in by_text.items():
        parts.append("=" * 79 + "\n" + "\n".join(users) + "\n" + "-" * 79 + "\n" + text + "\n")
    if none:
        parts.append("=" * 79 + "\n" + "\n".join(none) + "\n")
    return "\n".join(parts)


def main():
    words = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words.add_argument("--sbom", type=Path, required=True)
    words.add_argument("--licences", type=Path, required=True)
    words = words.parse_args()
    lock = tomllib.loads((HOME / "Cargo.lock").read_text())
    sums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--filter-platform", TARGET))
    packages = {(one["name"], one["version"]): one for one in metadata["packages"]}
    edges, bad = linked(), []
    version = packages[next(crate for crate in edges if crate[0] == "thruway")]["version"]
    components = [component(crate, packages[crate], sums.get(crate), bad) for crate in sorted(edges)]
    rustc = subprocess.run(["rustc", "--version"], cwd=HOME, capture_output=True, text=True, check=True).stdout.split()[1]
    components.append({"type": "library", "bom-ref": "rust-std", "name": "rust-std", "version": rustc,
                       "licenses": [{"expression": "MIT OR Apache-2.0"}]})
    for name, licence in LIBRARIES.items():
        components.append({"type": "library", "bom-ref": name, "name": name, "licenses": [{"expression": licence}]})
    if bad:
        sys.exit("sbom.py: " + "; ".join(bad))
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH", "0"))
    roots = [crate for crate in sorted(edges) if crate[0] in PROGRAMS]
    sbom = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "serialNumber": "urn:uuid:" + str(uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(components, sort_keys=True))),
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": {"type": "application", "bom-ref": "thruway-package", "name": "thruway", "version": version},
        },
        "components": components,
        "dependencies": [{"ref": "thruway-package", "dependsOn": [reference(crate) for crate in roots]}]
        + [{"ref": reference(crate), "dependsOn": sorted(map(reference, edges[crate]))} for crate in sorted(edges)],
    }
    words.sbom.write_text(json.dumps(sbom, indent=1, ensure_ascii=False) + "\n")
    words.licences.write_text(licences(sorted(edges), packages))


if __name__ == "__main__":
    main()
