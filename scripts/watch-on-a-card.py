#!/usr/bin/env python3
"""Who uses a real card, as attribution, `top`, `app prove` and `serve` tell it, on a machine that has one or several.

    scripts/watch-on-a-card.py PROGRAMS

PROGRAMS is a directory with thruway, thruway-runtime, thruway-hook, runc, crun and busybox (static). As root, on a machine with a
driver. In a runc container for each card a real CUDA process computes; it must be told by the container's id and on the right card,
by `thruway top` and by the exporter. Every value of the exporter is held against nvidia-smi asked just before and just after.
The cards' settings are not touched. Exit status 1 where something is not so.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
import urllib.request

from oncard import WORK, Bundle, end, paths, program, run, say

SECONDS = 40
PORT = 19466


class Load:
    """A container that computes on one card, by the card's UUID."""

    def __init__(self, uuid, number):
        # an engine's id: 64 hexadecimal digits
        self.id = f"{number + 10:02x}" * 32
        self.bundle = Bundle(f"load-{number}", "runc")
        config = self.bundle.config(f"exec thruway stress --for {SECONDS}s", [f"NVIDIA_VISIBLE_DEVICES={uuid}"])
        config["linux"]["cgroupsPath"] = f"/docker/{self.id}"
        with open(f"{self.bundle.at}/config.json", "w") as file:
            json.dump(config, file)
        environment = dict(os.environ, PATH=f"{WORK}/path-runc:{os.environ['PATH']}")
        self.log = open(f"{self.bundle.at}/log", "w+")
        command = [program("thruway-runtime"), "run", "--bundle", self.bundle.at, self.id]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=environment)
        self.uuid = uuid

    def end(self):
        status = self.process.wait(120)
        self.log.seek(0)
        return status, self.log.read()


def smi(fields):
    """By UUID: the fields as nvidia-smi has them, without units."""
    rows = run(["nvidia-smi", f"--query-gpu=uuid,{','.join(fields)}", "--format=csv,noheader,nounits"], check=True).stdout
    table = {}
    for row in rows.strip().splitlines():
        uuid, *values = [value.strip() for value in row.split(",")]
        table[uuid] = dict(zip(fields, values))
    return table


# the exporter's name, nvidia-smi's field, what one of its units is in base units, and how much may change between two looks
HELD = [
    ("thruway_gpu_memory_size_bytes", "memory.total", 1 << 20, 0),
    ("thruway_gpu_memory_used_bytes", "memory.used", 1 << 20, 0),
    ("thruway_gpu_memory_free_bytes", "memory.free", 1 << 20, 0),
    ("thruway_gpu_memory_reserved_bytes", "memory.reserved", 1 << 20, 0),
    ("thruway_gpu_temperature_celsius", "temperature.gpu", 1, 1),
    ("thruway_gpu_memory_temperature_celsius", "temperature.memory", 1, 1),
    ("thruway_gpu_power_watts", "power.draw", 1, 15),
    ("thruway_gpu_power_limit_watts", "power.limit", 1, 0),
    ("thruway_gpu_power_enforced_limit_watts", "enforced.power.limit", 1, 0),
    ("thruway_gpu_sm_ratio", "utilization.gpu", 0.01, 0.05),
    ("thruway_gpu_memory_busy_ratio", "utilization.memory", 0.01, 0.3),
    ("thruway_gpu_encoder_ratio", "utilization.encoder", 0.01, 0),
    ("thruway_gpu_decoder_ratio", "utilization.decoder", 0.01, 0),
    ("thruway_gpu_jpeg_ratio", "utilization.jpeg", 0.01, 0),
    ("thruway_gpu_ofa_ratio", "utilization.ofa", 0.01, 0),
    ("thruway_gpu_performance_state", "pstate", 1, 0),
    ("thruway_gpu_pcie_generation", "pcie.link.gen.current", 1, 0),
    ("thruway_gpu_pcie_generation_max", "pcie.link.gen.max", 1, 0),
    ("thruway_gpu_pcie_lanes", "pcie.link.width.current", 1, 0),
    ("thruway_gpu_pcie_lanes_max", "pcie.link.width.max", 1, 0),
    ("thruway_gpu_encoder_sessions", "encoder.stats.sessionCount", 1, 0),
    ('thruway_gpu_clock_hertz{clock="graphics"}', "clocks.gr", 1_000_000, 60_000_000),
    ('thruway_gpu_clock_hertz{clock="sm"}', "clocks.sm", 1_000_000, 60_000_000),
    ('thruway_gpu_clock_hertz{clock="memory"}', "clocks.mem", 1_000_000, 60_000_000),
    ('thruway_gpu_clock_hertz{clock="video"}', "clocks.video", 1_000_000, 60_000_000),
]


def series(text, name, uuid):
    """The value of one card's series; None where there is none."""
    name, _, more = name.partition("{")
    wanted = re.findall(r'(\w+)="([^"]*)"', more) + [("uuid", uuid)]
    for line in text.splitlines():
        if line.startswith(name + "{"):
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            if all(labels.get(key) == value for key, value in wanted):
                return float(line.rsplit(" ", 1)[1])
    return None


def fetch(path="/metrics"):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}{path}", timeout=10) as answer:
        return answer.read().decode()


def number(text):
    text = text.lstrip("P")
    try:
        return float(text)
    except ValueError:
        return None


def values(uuids):
    fields = list(dict.fromkeys(field for _, field, _, _ in HELD))
    before, text, after = smi(fields), fetch(), smi(fields)
    for uuid in uuids:
        same, other = 0, []
        for name, field, unit, slack in HELD:
            told = series(text, name, uuid)
            ends = [number(table[uuid][field]) for table in (before, after)]
            if None in ends:
                good = told is None
            else:
                low, high = min(ends) * unit - slack, max(ends) * unit + slack
                # MiB are cut by nvidia-smi
                good = told is not None and low - (unit if unit == 1 << 20 else 1e-9) <= told <= high + (unit if unit == 1 << 20 else 1e-9)
            same += good
            if not good:
                other.append(f"{name} {told} against {field} {ends}")
        say(not other, f"{uuid[:12]}…: {same} of {len(HELD)} values as nvidia-smi has them", "; ".join(other))
    return text


def attributed(loads, uuids):
    top = run([program("thruway"), "top", "--json"])
    report = json.loads(top.stdout)
    found = {}
    for card in report["sample"]["cards"] if "sample" in report else report["cards"]:
        gpu = card.get("gpu", card)
        processes = card.get("processes", {})
        processes = processes.get("is", processes) if isinstance(processes, dict) else processes
        for process in processes or []:
            uuid = gpu["uuid"]
            found.setdefault(uuid.get("is", uuid) if isinstance(uuid, dict) else uuid, []).append(process)
    text = json.dumps(found)
    for load in loads:
        own = json.dumps(found.get(load.uuid, []))
        others = json.dumps([found[uuid] for uuid in found if uuid != load.uuid])
        say(load.id in own, f"top: the process on {load.uuid[:12]}… is of container {load.id[:12]}", own[:300])
        say(load.id not in others, f"top: container {load.id[:12]} is on no other card")
    once = run([program("thruway"), "top", "--once"])
    print("".join(f"     {line}\n" for line in once.stdout.splitlines()[:30]))
    return text


def proved(loads):
    for load in loads:
        done = run([program("thruway"), "app", "prove", "--container", load.id[:12], "--for", "2s"])
        say(done.returncode == 0 and "computes" in done.stdout, f"app prove: container {load.id[:12]} computes", done.stdout + done.stderr)


def cost(server):
    def cpu():
        fields = open(f"/proc/{server.pid}/stat").read().rsplit(") ", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    took = []
    begun = cpu()
    for _ in range(100):
        start = time.perf_counter()
        fetch()
        took.append((time.perf_counter() - start) * 1e3)
        time.sleep(0.02)
    spent = (cpu() - begun) / 100
    took.sort()
    status = dict(line.split(":", 1) for line in open(f"/proc/{server.pid}/status"))
    print(f"     scrape: median {statistics.median(took):.2f}, p99 {took[98]:.2f} ms; {spent * 1e3:.2f} ms of CPU each, "
          f"{spent / 15 * 100:.3f} % of a core at one each 15 s; resident {status['VmRSS'].strip()}, of no file {status['RssAnon'].strip()}")


def main():
    paths()
    uuids = run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], check=True).stdout.split()
    run([program("thruway"), "cdi", "refresh"], check=False)
    loads = [Load(uuid, number) for number, uuid in enumerate(uuids)]
    server = subprocess.Popen([program("thruway"), "serve", "--listen", f"127.0.0.1:{PORT}", "--names", "thruway", "--names", "dcgm",
                               "--names", "nvidia_gpu_exporter"])
    time.sleep(12)
    try:
        attributed(loads, uuids)
        text = values(uuids)
        for load in loads:
            rows = [line for line in text.splitlines() if load.id in line or load.id[:12] in line]
            say(any(load.uuid in row for row in rows), f"serve: series of container {load.id[:12]} on its card", "\n".join(rows[:6]))
        for name in ["DCGM_FI_DEV_GPU_TEMP", "nvidia_smi_temperature_gpu"]:
            say(name in text, f"serve: {name} is there too")
        proved(loads)
        cost(server)
        say("<svg" in fetch("/"), "serve: the page answers")
        slow = [threading.Thread(target=fetch) for _ in range(50)]
        [thread.start() for thread in slow]
        [thread.join() for thread in slow]
        say(server.poll() is None, "serve: stands after 50 at once")
    finally:
        server.terminate()
        say(server.wait(10) == 0, "SIGTERM ends serve")
    for load in loads:
        status, output = load.end()
        say(status == 0, f"container {load.id[:12]} computed without an error", output.strip().splitlines()[-1] if output.strip() else "")
    run([program("thruway"), "cdi", "refresh", "--remove"])
    return end()


sys.exit(main())
