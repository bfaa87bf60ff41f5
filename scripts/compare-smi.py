#!/usr/bin/env python3
"""Holds `thruway smi` against the driver's own nvidia-smi on a machine with a card, field by field.

    scripts/compare-smi.py [path of thruway]

nvidia-smi is asked before and after, so that what moves (clocks, power, use) is known from what differs. Prints a table of
each form: fields compared, equal, moving, missing, differing; and every missing and differing one. Exit status 1 where any
differs or is missing.
"""

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree

THRUWAY = sys.argv[1] if len(sys.argv) > 1 else "thruway"


def said(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout


def leaves(text):
    """Path → text of each leaf; brothers of one name are numbered."""
    found = {}

    def walk(node, path):
        names = {}
        children = list(node)
        if not children:
            found[path] = (node.text or "").strip()
        for child in children:
            names[child.tag] = names.get(child.tag, 0) + 1
            walk(child, f"{path}/{child.tag}[{names[child.tag]}]")

    walk(ElementTree.fromstring(text), "")
    return found


def lines(text):
    """As above of -q's text: a path by indentation."""
    found, path = {}, []
    for line in text.splitlines():
        if not line.strip() or line.startswith("==="):
            continue
        depth = (len(line) - len(line.lstrip())) // 4
        name, colon, value = line.partition(" : ")
        path = path[:depth] + [name.strip()]
        key, n = "/".join(path), 2
        while key in found:
            key, n = "/".join(path) + f"[{n}]", n + 1
        found[key] = value.strip() if colon else ""
    return found


def csv(tool, fields):
    rows = said(tool, *(["smi"] if tool == THRUWAY else []), f"--query-gpu={','.join(fields)}", "--format=csv")
    found = {}
    for number, row in enumerate(rows.splitlines()):
        for field, value in zip(fields, row.split(", ")):
            found[f"{'header' if number == 0 else number - 1}/{field}"] = value
    return found


def known_fields():
    names = re.findall(r'^"([a-z0-9_.A-Z]+)"', said("nvidia-smi", "--help-query-gpu"), re.M)
    ours = set(re.findall(r'^"?([a-z0-9_.A-Z]+)"?', said(THRUWAY, "smi", "--help-query-gpu"), re.M))
    missing = [name for name in names if name not in ours]
    return [name for name in names if name in ours], missing


def compare(form, before, ours, after):
    equal, moving, missing, differ = 0, [], [], []
    for path, value in before.items():
        if path not in ours:
            missing.append((path, value, ""))
        elif ours[path] == value or ours[path] == after.get(path):
            equal += 1
        elif value != after.get(path):
            moving.append((path, value, ours[path]))
        else:
            differ.append((path, value, ours[path]))
    extra = [(path, "", value) for path, value in ours.items() if path not in before]
    print(f"{form:12} {len(before):5} fields  {equal:5} equal  {len(moving):3} moving  {len(missing):3} missing"
          f"  {len(differ):3} differ  {len(extra):3} only ours")
    for word, rows in (("missing", missing), ("differs", differ), ("moving", moving), ("only ours", extra)):
        for path, theirs, own in rows[:60]:
            print(f"  {word:9} {path}: {theirs!r} {own!r}")
    return not missing and not differ


def main():
    good = True
    for form, args, read in (("-q -x", ["-q", "-x"], leaves), ("-q", ["-q"], lines), ("-L", ["-L"], lines)):
        before = read(said("nvidia-smi", *args))
        ours = read(said(THRUWAY, "smi", *args))
        good &= compare(form, before, ours, read(said("nvidia-smi", *args)))
    fields, missing = known_fields()
    good &= compare("--query-gpu", csv("nvidia-smi", fields), csv(THRUWAY, fields), csv("nvidia-smi", fields))
    print(f"fields that thruway's --query-gpu does not know: {', '.join(missing) or 'none'}")
    table = [said("nvidia-smi").splitlines(), said(THRUWAY, "smi").splitlines(), said("nvidia-smi").splitlines()]
    rows = {kind: {f"line {n}": line for n, line in enumerate(text[1:])} for kind, text in zip("bta", table)}
    good &= compare("table", rows["b"], rows["t"], rows["a"])
    return 0 if good else 1


sys.exit(main())
