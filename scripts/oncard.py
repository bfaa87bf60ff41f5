"""What the scripts that start containers on a real card share: bundles, statements and their count."""

import copy
import json
import os
import shutil
import subprocess
import sys
import tempfile

PROGRAMS = os.path.abspath(sys.argv[1])
WORK = tempfile.mkdtemp(prefix="thruway-card-")
# whoever maps to an ordinary user must get through
os.chmod(WORK, 0o755)
failed = []


def program(name):
    return f"{PROGRAMS}/{name}"


def say(good, what, detail=""):
    print(f"{'ok  ' if good else 'FAIL'} {what}{': ' + detail.strip() if detail.strip() else ''}", flush=True)
    if not good:
        failed.append(what)


def run(arguments, **more):
    more.setdefault("timeout", 120)
    return subprocess.run(arguments, capture_output=True, text=True, **more)


def root_file_system(root):
    for path in ["bin", "proc", "dev", "sys", "tmp", "etc", "run", "usr/bin", "usr/lib", "lib64", "lib/x86_64-linux-gnu"]:
        os.makedirs(f"{root}/{path}", exist_ok=True)
    shutil.copy(program("busybox"), f"{root}/bin/busybox")
    for applet in ["sh", "ls", "cat", "mknod", "true", "id", "grep"]:
        os.symlink("busybox", f"{root}/bin/{applet}")
    shutil.copy(program("thruway"), f"{root}/bin/thruway")
    for library in ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libdl.so.2", "libpthread.so.0", "librt.so.1"]:
        shutil.copy(f"/lib/x86_64-linux-gnu/{library}", f"{root}/lib/x86_64-linux-gnu/{library}")
    shutil.copy("/lib64/ld-linux-x86-64.so.2", f"{root}/lib64/ld-linux-x86-64.so.2")


class Bundle:
    def __init__(self, name, runtime):
        self.at = f"{WORK}/{name}"
        os.makedirs(f"{self.at}/rootfs")
        root_file_system(f"{self.at}/rootfs")
        run([program("runc"), "spec"], cwd=self.at, check=True)
        self.base = json.load(open(f"{self.at}/config.json"))
        self.base["process"]["terminal"] = False
        self.base["root"]["readonly"] = False
        self.runtime = runtime
        self.count = 0

    def config(self, script, environment=(), annotations=None, prestart=None, mounts=(), **process):
        config = copy.deepcopy(self.base)
        config["process"]["args"] = ["/bin/sh", "-c", script]
        config["process"]["env"] += list(environment)
        config["process"].update(process)
        if annotations:
            config["annotations"] = annotations
        if prestart:
            config["hooks"] = {"prestart": [prestart]}
        config["mounts"] += list(mounts)
        return config

    def start(self, config, shim=True):
        """One container from start to end: (exit status, output)."""
        self.count += 1
        with open(f"{self.at}/config.json", "w") as file:
            json.dump(config, file)
        environment = dict(os.environ)
        environment["PATH"] = f"{WORK}/path-{self.runtime}:{PROGRAMS}:{environment['PATH']}"
        command = program("thruway-runtime") if shim else program(self.runtime)
        done = run([command, "run", "--bundle", self.at, f"card-{os.getpid()}-{self.runtime}-{self.count}"], env=environment)
        return done.returncode, done.stdout + done.stderr


class Kubelet:
    """The simulated kubelet: an order, an answer."""

    def __init__(self, root):
        self.process = subprocess.Popen([program("simulated-kubelet"), root], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.dir = json.loads(self.process.stdout.readline())["dir"]

    def __call__(self, *words):
        print(" ".join(map(str, words)), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())


def paths():
    """A PATH for each low-level runtime: the shim takes the first of runc, crun on its PATH."""
    for runtime in ["runc", "crun"]:
        os.makedirs(f"{WORK}/path-{runtime}")
        for name in ["runc", "crun"]:
            os.symlink(program(runtime), f"{WORK}/path-{runtime}/{name}")
    if not os.path.exists("/usr/bin/thruway-hook"):
        # where specs look for it
        for name in ["thruway", "thruway-hook", "thruway-runtime"]:
            shutil.copy(program(name), f"/usr/bin/{name}")


def end():
    """Takes the scratch away and counts; the exit status."""
    shutil.rmtree(WORK, ignore_errors=True)
    print(f"{len(failed)} failed" + "".join(f"\n  {what}" for what in failed))
    return 1 if failed else 0
