#!/usr/bin/env python3
"""The node agent with a real card and a simulated kubelet, on a machine that has the card.

    scripts/agent-on-a-card.py PROGRAMS

PROGRAMS is a directory with thruway, thruway-node, thruway-runtime, thruway-hook, runc, crun, busybox (static) and
simulated-kubelet (`cargo build -p thruway-simkube --example kubelet`). As root, on a machine with cgroup v2 and a driver. The
agent must advertise the cards that nvidia-smi lists, by their UUIDs; a pod that asks for one is admitted with a CDI name, and a
container started with that name alone must see that card and compute on it; the kubelet is restarted and has the card again; a
second pod is refused while the first holds the card; on SIGTERM the agent leaves and what it granted stays. The card's
settings are not touched. Exit status 1 where something is not so.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

from oncard import WORK, Bundle, Kubelet, end, paths, program, run, say

STRESS = os.environ.get("STRESS", "10s")
RESOURCE = "nvidia.com/gpu"


def resident(pid):
    """Resident memory in MiB: all, and what is no file's."""
    lines = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    kib = lambda name: int(lines[name].split()[0]) / 1024
    return kib("VmRSS"), kib("RssAnon")


def main():
    paths()
    root = f"{WORK}/kubelet"
    os.makedirs(root)
    kubelet = Kubelet(root)
    uuids = sorted(run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"], check=True).stdout.split())
    started = time.perf_counter()
    command = [program("thruway-node"), "run", "--plugin-dir", kubelet.dir, "--listen", "127.0.0.1:9847"]
    log = open(f"{WORK}/agent.log", "w+")
    agent = subprocess.Popen(command, stdout=log, stderr=log)
    offered = kubelet("wait", RESOURCE, len(uuids))
    print(f"     start to listed: {(time.perf_counter() - started) * 1e3:.1f} ms")
    say(offered.get("healthy") == uuids, f"{len(uuids)} cards are advertised by UUID", json.dumps(offered))
    specs = run(["sh", "-c", "ls -l /run/cdi /var/run/cdi"]).stdout
    print(specs)
    grant = kubelet("admit", "first", RESOURCE, 1)
    say(len(grant.get("cdi", [])) == 1 and grant["cdi"][0].split("=")[1] in uuids, "a pod is admitted with a CDI name", json.dumps(grant))
    second = kubelet("admit", "second", RESOURCE, len(uuids))
    say("error" in second, "a pod that asks for more than is free is refused", json.dumps(second))
    for runtime in ["runc", "crun"]:
        bundle = Bundle(f"agent-{runtime}", runtime)
        script = f"cd /dev; ls -d nvidia[0-9]*; echo =; thruway smi -L; thruway stress --for {STRESS} 2>&1 | cat; thruway stress --for 1s >/dev/null 2>&1; echo stress=$?"
        # what the kubelet hands to the engine, and the engine to the runtime
        config = bundle.config(script, annotations={"cdi.k8s.io/granted": ",".join(grant.get("cdi", []))})
        status, output = bundle.start(config)
        uuid = grant["devices"][0]
        good = status == 0 and uuid in output and "stress=0" in output and len(output.split("=")[0].split()) == 1
        say(good, f"{runtime}: a container by that name sees that card alone and computes", output)
    for _ in range(3):
        kubelet("restart", 50)
        print("     after a restart of the kubelet:", json.dumps(kubelet("appeared", RESOURCE)))
    say(kubelet("wait", RESOURCE, len(uuids)).get("healthy") == uuids, "after restarts of the kubelet the cards are there again")
    metrics = urllib.request.urlopen("http://127.0.0.1:9847/metrics", timeout=5).read().decode()
    say(RESOURCE in metrics or uuids[0] in metrics, "metrics name them", f"{len(metrics.splitlines())} lines")
    time.sleep(2)
    print("     resident: %.1f MiB, of it %.1f of no file" % resident(agent.pid))
    agent.send_signal(signal.SIGTERM)
    say(agent.wait(10) == 0, "SIGTERM ends it")
    log.seek(0)
    print("".join(f"     agent: {line}" for line in log.readlines()[:40]))
    kubelet.process.stdin.close()
    kubelet.process.wait(5)
    return end()


sys.exit(main())
