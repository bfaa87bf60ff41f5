#!/usr/bin/env python3
"""Several real cards in one machine: what is shown with one holds for each.

    scripts/several-cards.py PROGRAMS

PROGRAMS is a directory with thruway, thruway-node, thruway-runtime, thruway-hook, runc, crun, busybox (static) and
simulated-kubelet. As root, on a machine with two cards or more. `topo` must say what nvidia-smi topo -m says; a container that asks for one card,
by index and by UUID, must have that one alone, and not be able to open another; the agent must give distinct cards, and one that is
cordoned must leave the others as they are; `stress` on all cards at once must find every result right, and every way between two of
them whole and as fast as it should be, which is printed beside nvidia-smi's speeds of the links. Last, what `gpus`, `smi`, `topo` and
`cdi generate` take beside nvidia-smi, for as many cards as there are. The cards' settings are not touched. Exit status 1 where
something is not so.
"""

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time

from oncard import WORK, Bundle, Kubelet, end, paths, program, run, say

RESOURCE = "nvidia.com/gpu"


def cards():
    rows = run(["nvidia-smi", "--query-gpu=index,uuid,pci.bus_id", "--format=csv,noheader"], check=True).stdout
    return [[word.strip() for word in row.split(",")] for row in rows.strip().splitlines()]


def topology(count):
    text = re.sub(r"\x1b\[[0-9;]*m", "", run(["nvidia-smi", "topo", "-m"], check=True).stdout)
    lines = [line for line in text.splitlines() if re.match(r"\s*GPU\d", line)]
    theirs = {line.split("\t")[0].strip(): [word.strip() for word in line.split("\t")[1:]] for line in lines[1:]}
    topo = json.loads(run([program("thruway"), "topo", "--json"], check=True).stdout)["topo"]

    def word(way):
        if way == "own":
            return "X"
        if "linked" in way:
            return f"NV{way['linked']['nvlinks']}"
        return {"board": "PSB", "switch": "PIX", "switches": "PXB", "host_bridge": "PHB", "node": "NODE", "system": "SYS"}[way["pcie"]]

    others = count + len(topo["nics"])
    for card, ways in zip(topo["cards"], topo["ways"]):
        row = theirs[card["label"]]
        ours = [word(way) for way in ways]
        say(ours == row[:others], f"topo: {card['label']}: the ways", f"{ours} against {row[:others]}")
        cpus = card["cpus"].get("is", "N/A") if isinstance(card["cpus"], dict) else "N/A"
        numa = "N/A" if card["numa"] is None else str(card["numa"])
        rest = [word for word in row[others:] if word]
        say([cpus, numa] == rest[:2], f"topo: {card['label']}: CPUs and NUMA node", f"{cpus} {numa} against {rest[:2]}")


def alone(bundle, index, uuid, count):
    for asked in [index, uuid]:
        script = "cd /dev; ls -d nvidia[0-9]*; echo =; thruway smi -L; thruway stress --for 3s; echo stress=$?"
        status, output = bundle.start(bundle.config(script, [f"NVIDIA_VISIBLE_DEVICES={asked}"]))
        nodes = output.split("=")[0].split()
        shown = [line for line in output.splitlines() if line.startswith("GPU ")]
        good = status == 0 and nodes == [f"nvidia{index}"] and len(shown) == 1 and uuid in shown[0] and "stress=0" in output
        say(good, f"NVIDIA_VISIBLE_DEVICES={asked[:12]}: that card alone, and it computes", "" if good else output)
    capabilities = {kind: ["CAP_MKNOD", "CAP_AUDIT_WRITE"] for kind in ["bounding", "effective", "permitted"]}
    for other in range(count):
        if str(other) == index:
            continue
        knock = f"mknod /tmp/other{other} c 195 {other}; cat /tmp/other{other}; echo status=$?"
        _, output = bundle.start(bundle.config(knock, [f"NVIDIA_VISIBLE_DEVICES={index}"], capabilities=capabilities))
        say("not permitted" in output, f"with card {index}, card {other}'s node made by hand is not openable", output)


def agent(uuids):
    root = f"{WORK}/kubelet"
    os.makedirs(root)
    kubelet = Kubelet(root)
    log = open(f"{WORK}/agent.log", "w+")
    command = [program("thruway-node"), "run", "--plugin-dir", kubelet.dir, "--no-api", "--listen", "127.0.0.1:9848"]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        offered = kubelet("wait", RESOURCE, len(uuids))
        say(offered.get("healthy") == sorted(uuids), f"agent: {len(uuids)} cards by UUID", json.dumps(offered))
        given = [kubelet("admit", f"pod{number}", RESOURCE, 1).get("devices", [None])[0] for number in range(len(uuids))]
        say(sorted(given, key=str) == sorted(uuids), "agent: each pod has a card of its own", json.dumps(given))
        more = kubelet("admit", "late", RESOURCE, 1)
        say("error" in more, "agent: one more is refused", json.dumps(more))
        for number in range(len(uuids)):
            kubelet("forget", f"pod{number}")
        both = kubelet("admit", "both", RESOURCE, 2)
        say(len(set(both.get("devices", []))) == 2, "agent: two for one pod", json.dumps(both.get("devices")))
        kubelet("forget", "both")
        run([program("thruway-node"), "cordon", "--local", uuids[0]])
        time.sleep(2)
        left = kubelet("list").get(RESOURCE, {})
        say(left.get("healthy") == sorted(uuids[1:]), "agent: a cordoned card leaves the others", json.dumps(left))
        run([program("thruway-node"), "uncordon", "--local", uuids[0]])
        say(kubelet("wait", RESOURCE, len(uuids)).get("healthy") == sorted(uuids), "agent: and comes back")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        log.seek(0)
        print("".join(f"     agent: {line}" for line in log.readlines()[:30]))
        kubelet.process.stdin.close()
        kubelet.process.wait(5)


def links(count):
    speeds = {}
    for line in run(["nvidia-smi", "nvlink", "-s"]).stdout.splitlines():
        if card := re.match(r"GPU (\d+):", line):
            speeds[int(card[1])] = speed = []
        elif link := re.match(r"\s+Link \d+: ([\d.]+) GB/s", line):
            speed.append(float(link[1]))
    for card, speed in speeds.items():
        print(f"     nvidia-smi nvlink -s: GPU{card}: {len(speed)} links, {sum(speed):.0f} GB/s")
    done = run([program("thruway"), "stress", "--for", "10s", "--json"], timeout=400)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        say(False, "stress on all cards", done.stdout + done.stderr)
        return
    for card in report.get("cards", []):
        words = card.get("error") or f"{card['bandwidth'] / 1e12:.2f} TB/s, {card['floats'] / 1e12:.1f} Top/s, {card['hottest']} °C at most"
        say(card["verdict"] == "right", f"stress: {card['bdf']} at the same time as the others", words)
    ways = report.get("links") or {}
    pairs = ways.get("pairs") or []
    say(len(pairs) == count * (count - 1), "stress: each way between two cards was measured", f"{len(pairs)} {ways.get('error') or ''}")
    for pair in pairs:
        share = f"{100 * pair['share']:.0f} % of {pair['most'] / 1e9:.0f}" if pair["most"] else "of what is not known"
        words = f"{pair['way']}, peer access {pair['peer']}, {pair['bandwidth'] / 1e9:.1f} GB/s, {share}, {pair['copies']} copies, {pair['errors']} wrong"
        good = pair["errors"] == 0 and not pair["slow"] and not pair["failed"] and pair["copies"] > 3
        say(good, f"stress: {pair['from']} to {pair['to']}", words + (pair["failed"] or ""))
    say((done.returncode, report["verdict"]) == (0, "right"), "stress: the verdict", f"{done.returncode} {report['verdict']} {done.stderr}")
    text = run([program("thruway"), "stress", "--for", "2s"], timeout=400).stdout
    print("".join(f"     {line}\n" for line in text.splitlines()))


def figures(count):
    def timed(command, environment=None):
        times = []
        for _ in range(15):
            start = time.perf_counter()
            run(command, env=environment)
            times.append((time.perf_counter() - start) * 1e3)
        return statistics.median(times)

    print(f"     {count} cards, medians of 15 runs:")
    for ours, theirs in [
        (["gpus", "--json"], ["--query-gpu=index,uuid,pci.bus_id,name,memory.used", "--format=csv"]),
        (["smi", "-L"], ["-L"]),
        (["smi"], []),
        (["smi", "-q"], ["-q"]),
        (["topo"], ["topo", "-m"]),
        (["cdi", "generate"], []),
        (["gpus"], []),
    ]:
        one, other = timed([program("thruway"), *ours]), timed(["nvidia-smi", *theirs])
        beside = f"nvidia-smi {' '.join(theirs)}".strip()
        print(f"     thruway {' '.join(ours):13} {one:8.1f} ms   {beside:75} {other:8.1f} ms   ratio {one / other:.2f}", flush=True)


def main():
    paths()
    run([program("thruway"), "cdi", "refresh"])
    all_cards = cards()
    topology(len(all_cards))
    bundle = Bundle("alone", "runc")
    for index, uuid, _ in all_cards:
        alone(bundle, index, uuid, len(all_cards))
    agent([uuid for _, uuid, _ in all_cards])
    links(len(all_cards))
    figures(len(all_cards))
    run([program("thruway"), "cdi", "refresh", "--remove"])
    return end()


sys.exit(main())
