#!/usr/bin/env python3
"""thruway's reading of NVML against the driver's own nvidia-smi, on a machine that has a card.

    scripts/against-nvidia-smi.py [THRUWAY [NVIDIA_SMI]]

Compares `smi -q -x` element by element, `smi --query-gpu` field by field, the table, -L and -q line by line, and how long each
takes. What is measured anew by each run (power, heat, clocks, load, throughput) is counted apart. Exit status 1 where
something else differs. Nothing is changed; no identifier is printed.
"""

import re
import subprocess
import sys
import time
import xml.etree.ElementTree as tree

OURS = [sys.argv[1] if len(sys.argv) > 1 else "thruway", "smi"]
THEIRS = [sys.argv[2] if len(sys.argv) > 2 else "nvidia-smi"]
MEASURED = re.compile(
    "timestamp|power_draw|power.draw|_util|utilization|temp|tlimit|_clock$|clocks.(current|gr|sm|mem|video)|fan|performance_state|"
    "pstate|power_state|clocks_event|clocks_throttle|used|free|link_gen|gen.(gpu)?current|replay|average|energy|Draw|Throughput|Temp"
)
SECRET = re.compile("uuid|serial|pdi|guid", re.I)


def run(program, *arguments):
    start = time.monotonic()
    done = subprocess.run([*program, *arguments], capture_output=True, text=True)
    return done.stdout, time.monotonic() - start, done.returncode


def flat(element, path, out):
    seen = {}
    for child in element:
        number = seen[child.tag] = seen.get(child.tag, -1) + 1
        flat(child, f"{path}/{child.tag}[{number}]" if number else f"{path}/{child.tag}", out)
    if len(element) == 0:
        out[path] = (element.text or "").strip()


wrong = 0


def compare(title, pairs):
    """pairs: (name, ours, theirs)"""
    global wrong
    same = measured = 0
    differing = []
    for name, ours, theirs in pairs:
        if ours == theirs:
            same += 1
        elif MEASURED.search(name):
            measured += 1
        else:
            differing.append((name, ours, theirs))
    print(f"{title}: {same} the same, {measured} measured anew, {len(differing)} differing")
    for name, ours, theirs in differing:
        if SECRET.search(name):
            ours, theirs = (ours and "(something)"), (theirs and "(something)")
        print(f"    {name:62} ours {ours!r:30} theirs {theirs!r}")
    wrong += len(differing)


texts = [run(program, "-q", "-x")[0] for program in (OURS, THEIRS)]
values = [{}, {}]
for text, out in zip(texts, values):
    flat(tree.fromstring(text), "", out)
# each graphics clock of a list is not a line of its own
names = [name for name in dict.fromkeys([*values[1], *values[0]]) if "supported_graphics_clock" not in name]
compare("-q -x", [(name, values[0].get(name), values[1].get(name)) for name in names])
lists = ["".join(value for name, value in out.items() if "supported_graphics_clock" in name) for out in values]
compare("supported clocks", [("supported clocks", *lists)])

helps = [run(program, "--help-query-gpu")[0] for program in (OURS, THEIRS)]
fields = [re.findall(r'^"([^" ]+)"(?! means)', text, re.M) for text in helps]
known = {name for text in [helps[0]] for line in text.splitlines() if line.startswith('"') for name in re.findall(r'"([^" ]+)"', line)}
print("fields that only nvidia-smi knows:", ", ".join(name for name in fields[1] if name not in known and not name[0].isdigit()) or "none")
common = [name for name in fields[1] if name in known and not name[0].isdigit()]
pairs = []
for start in range(0, len(common), 40):
    part = common[start : start + 40]
    rows = [run(program, f"--query-gpu={','.join(part)}", "--format=csv")[0].splitlines() for program in (OURS, THEIRS)]
    for number, (ours, theirs) in enumerate(zip(*rows)):
        for name, a, b in zip(part, ours.split(", "), theirs.split(", ")):
            pairs.append((name if number else f"header of {name}", a, b))
compare("--query-gpu", pairs)

for arguments in ([], ["-L"], ["-q"]):
    ours, theirs = (run(program, *arguments)[0].splitlines() for program in (OURS, THEIRS))
    if len(ours) != len(theirs):
        print(f"    {len(ours)} lines, theirs {len(theirs)}")
        wrong += 1
    mask = (lambda line: re.sub(r"\d", "0", re.sub(r" +", " ", line))) if not arguments else (lambda line: line)
    compare(" ".join(arguments) or "table", [(f"line {n}: {b.split(':')[0].strip()}", mask(a), mask(b)) for n, (a, b) in enumerate(zip(ours, theirs))])

for title, program in (
    ("thruway gpus", [OURS[0], "gpus"]),
    ("thruway gpus --json", [OURS[0], "gpus", "--json"]),
    ("thruway smi", OURS),
    ("thruway smi -q -x", [*OURS, "-q", "-x"]),
    ("nvidia-smi", THEIRS),
    ("nvidia-smi -q -x", [*THEIRS, "-q", "-x"]),
):
    times = sorted(run(program)[1] for _ in range(7))
    print(f"{title:24} {times[3] * 1000:7.1f} ms (median of 7)")
sys.exit(1 if wrong else 0)
