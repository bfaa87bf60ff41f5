#!/usr/bin/env python3
"""Containers with a real card, on a machine that has one: every way of asking, with a real runc and crun.

    scripts/containers-on-a-card.py PROGRAMS [RUNS]

PROGRAMS is a directory with thruway, thruway-runtime, thruway-hook, runc, crun and busybox (static). As root, on a machine
with cgroup v2 and a driver. A CDI spec is made there (below /run/cdi, which is taken back); then containers are started from a
root file system of busybox, thruway and this machine's C library: by CDI names, by NVIDIA_VISIBLE_DEVICES in its forms, by the
prestart hook, without a request, and as an ordinary user in a user namespace. Inside, NVML must answer and `thruway stress`
must compute; without a request the card must not be there and not be openable. Last, what it all costs, beside the runtime
alone. Exit status 1 where something is not so.
"""

import copy
import json
import os
import shutil
import statistics
import subprocess
import sys
import time

from oncard import PROGRAMS, WORK, Bundle, end, paths, program, run, say

RUNS = int(sys.argv[2]) if len(sys.argv) > 2 else 20
STRESS = os.environ.get("STRESS", "10s")


def inside(bundle, what, nodes, computes, **request):
    """A container that must see exactly these nodes; where it computes, NVML answers and the stress passes."""
    script = "cd /dev; ls -d nvidia[0-9]* nvidiactl 2>/dev/null | grep -v : ; echo =; thruway smi -L; echo nvml=$?"
    if computes:
        script += f"; thruway stress --for {STRESS} 2>&1 | cat; thruway stress --for 1s >/dev/null 2>&1; echo stress=$?"
    status, output = bundle.start(bundle.config(script, **request))
    seen = output.split("=")[0].split() if "=" in output else [output]
    say(sorted(seen) == sorted(nodes), f"{bundle.runtime}: {what}: nodes", " ".join(seen) or "none")
    if nodes and computes is not None:
        say("nvml=0" in output, f"{bundle.runtime}: {what}: NVML answers", "" if "nvml=0" in output else output)
    if computes:
        lines = [line for line in output.splitlines() if "error" in line or "TFLOP" in line or "TOP" in line]
        good = "stress=0" in output
        say(good, f"{bundle.runtime}: {what}: computes", (lines[-1] if lines else "") if good else output)


def refused(bundle, what, needle, **request):
    status, output = bundle.start(bundle.config("true", **request))
    say(status != 0 and needle in output, f"{bundle.runtime}: {what} is refused", output.strip().splitlines()[-1] if output.strip() else "")


def ways(runtime, uuid, cards):
    bundle = Bundle(runtime, runtime)
    every = [f"nvidia{number}" for number in range(cards)] + ["nvidiactl"]
    one = ["nvidia0", "nvidiactl"]
    cdi = {"cdi.k8s.io/card": "nvidia.com/gpu=0"}
    inside(bundle, "CDI annotation nvidia.com/gpu=0", one, True, annotations=cdi)
    inside(bundle, "NVIDIA_VISIBLE_DEVICES=0", one, True, environment=["NVIDIA_VISIBLE_DEVICES=0"])
    inside(bundle, "NVIDIA_VISIBLE_DEVICES=UUID", one, False, environment=[f"NVIDIA_VISIBLE_DEVICES={uuid}"])
    inside(bundle, "NVIDIA_VISIBLE_DEVICES=all", every, False, environment=["NVIDIA_VISIBLE_DEVICES=all"])
    inside(bundle, "NVIDIA_VISIBLE_DEVICES=none", ["nvidiactl"], None, environment=["NVIDIA_VISIBLE_DEVICES=none"])
    inside(bundle, "NVIDIA_VISIBLE_DEVICES=void", [], None, environment=["NVIDIA_VISIBLE_DEVICES=void"])
    inside(bundle, "no request", [], None)
    refused(bundle, "NVIDIA_VISIBLE_DEVICES=63", "63", environment=["NVIDIA_VISIBLE_DEVICES=63"])
    refused(
        bundle, "NVIDIA_REQUIRE_CUDA=cuda>=99.0", "99.0",
        environment=["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_REQUIRE_CUDA=cuda>=99.0"],
    )
    # the node's numbers are no secret: what keeps a container from the card is the device cgroup
    capabilities = {kind: ["CAP_MKNOD", "CAP_AUDIT_WRITE"] for kind in ["bounding", "effective", "permitted"]}
    knock = "mknod /tmp/card c 195 0; cat /tmp/card; echo status=$?"
    _, output = bundle.start(bundle.config(knock, capabilities=capabilities))
    say("not permitted" in output and "status=1" in output, f"{runtime}: no request: a node made by hand is not openable", output)
    other = "mknod /tmp/other c 195 1; cat /tmp/other; echo status=$?"
    _, output = bundle.start(bundle.config(other, capabilities=capabilities, environment=["NVIDIA_VISIBLE_DEVICES=0"]))
    say("not permitted" in output, f"{runtime}: with card 0: card 1's node made by hand is not openable", output)
    hook = {"path": f"{WORK}/nvidia-container-runtime-hook", "args": ["nvidia-container-runtime-hook", "prestart"]}
    for what, environment in [("0", ["NVIDIA_VISIBLE_DEVICES=0"]), ("none asked", [])]:
        script = f"cd /dev; ls -d nvidia[0-9]* nvidiactl 2>/dev/null; echo =; thruway smi -L; echo nvml=$?; thruway stress --for {STRESS}; echo stress=$?"
        if not environment:
            script = "ls -d /dev/nvidia* 2>/dev/null; echo ="
        status, output = bundle.start(bundle.config(script, environment, prestart=hook), shim=False)
        if environment:
            say(output.split("=")[0].split() == one, f"{runtime}: prestart hook, {what}: nodes", output.split("=")[0])
            good = "nvml=0" in output and "stress=0" in output
            say(good, f"{runtime}: prestart hook, {what}: NVML answers, it computes", "" if good else output)
        else:
            say(output.strip() == "=", f"{runtime}: prestart hook, {what}: nothing is there", output.replace("=", ""))
    return bundle


def ordinary_user(runtime):
    """A container of user 1000, in its own user namespace, without root and without a cgroup of its own."""
    bundle = Bundle(f"{runtime}-user", runtime)
    os.remove(f"{bundle.at}/config.json")
    subprocess.run(["chown", "-R", "1000:1000", bundle.at], check=True)
    state = f"{WORK}/state-{runtime}"
    os.makedirs(state, exist_ok=True)
    os.chown(state, 1000, 1000)
    as_user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]
    made = run([*as_user[:-2], "--", program("runc"), "spec", "--rootless"], cwd=bundle.at)
    if made.returncode:
        say(False, f"{runtime}: runc spec --rootless", made.stderr)
        return
    config = json.load(open(f"{bundle.at}/config.json"))
    config["process"]["terminal"] = False
    config["process"]["env"].append("NVIDIA_VISIBLE_DEVICES=0")
    script = f"id -u; thruway smi -L; echo nvml=$?; thruway stress --for {STRESS}; echo stress=$?"
    config["process"]["args"] = ["/bin/sh", "-c", script]
    config["linux"].pop("resources", None)
    config["linux"].pop("cgroupsPath", None)
    with open(f"{bundle.at}/config.json", "w") as file:
        json.dump(config, file)
    os.chown(f"{bundle.at}/config.json", 1000, 1000)
    environment = {"PATH": f"{WORK}/path-{runtime}:{PROGRAMS}:{os.environ['PATH']}", "XDG_RUNTIME_DIR": state, "HOME": state,
                   "LD_LIBRARY_PATH": os.environ.get("LD_LIBRARY_PATH", "")}
    more = ["--cgroup-manager=disabled"] if runtime == "crun" else []
    command = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--", program("thruway-runtime"), *more, "--root", state,
               "run", "--bundle", bundle.at, f"user-{os.getpid()}"]
    plain = copy.deepcopy(config)
    plain["process"]["args"] = ["/bin/true"]
    plain["process"]["env"].pop()
    with open(f"{bundle.at}/config.json", "w") as file:
        json.dump(plain, file)
    alone = run([program(runtime) if word == program("thruway-runtime") else word for word in command], env=environment)
    if alone.returncode:
        print(f"skip {runtime}: user 1000 in a user namespace: {runtime} alone does not start one here: {alone.stderr.strip()}")
        return
    with open(f"{bundle.at}/config.json", "w") as file:
        json.dump(config, file)
    done = run(command, env=environment)
    output = done.stdout + done.stderr
    good = "nvml=0" in output and "stress=0" in output
    say(good, f"{runtime}: user 1000 in a user namespace: NVML answers, it computes", "" if good else output)


def timed(action, count=None):
    times = []
    for _ in range(count or RUNS):
        start = time.perf_counter()
        action()
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times), min(times)


def costs(bundle):
    def container(environment, shim, annotations=None):
        def start():
            status, output = bundle.start(bundle.config("true", environment, annotations), shim)
            assert status == 0, output
        return start

    rows = [
        ("the runtime alone", container([], False)),
        ("shim, no request", container([], True)),
        ("shim, NVIDIA_VISIBLE_DEVICES=0", container(["NVIDIA_VISIBLE_DEVICES=0"], True)),
        ("shim, =0, capabilities all", container(["NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=all"], True)),
        ("shim, CDI annotation (all files)", container([], True, {"cdi.k8s.io/card": "nvidia.com/gpu=0"})),
    ]
    # in turns, so that what else the machine does meets all alike
    times = {name: [] for name, _ in rows}
    for _ in range(RUNS):
        for name, action in rows:
            start = time.perf_counter()
            action()
            times[name].append((time.perf_counter() - start) * 1e3)
    alone = statistics.median(times[rows[0][0]])
    for name, _ in rows:
        median = statistics.median(times[name])
        print(f"     {bundle.runtime}: {name}: {median:.2f} ms (least {min(times[name]):.2f}), {median - alone:+.2f} ms", flush=True)


def main():
    paths()
    os.symlink(program("thruway-runtime"), f"{WORK}/nvidia-container-runtime-hook")
    done = run(["thruway", "cdi", "refresh"])
    say(done.returncode == 0, "thruway cdi refresh", done.stderr if done.returncode else done.stdout)
    print(run(["sh", "-c", "ls -l /run/cdi /run/thruway"]).stdout)
    check = run(["thruway", "cdi", "check"])
    say(check.returncode == 0, "thruway cdi check", check.stdout + check.stderr if check.returncode else "")
    listed = run(["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]).stdout.split()
    for runtime in ["runc", "crun"]:
        bundle = ways(runtime, listed[0], len(listed))
        ordinary_user(runtime)
        costs(bundle)
    for name, command in [("/bin/true", ["/bin/true"]), ("thruway cdi generate", ["thruway", "cdi", "generate"]),
                          ("nvidia-smi -L", ["nvidia-smi", "-L"])]:
        median, least = timed(lambda command=command: run(command, check=True))
        print(f"     {name}: {median:.2f} ms (least {least:.2f})")
    return end()


sys.exit(main())
