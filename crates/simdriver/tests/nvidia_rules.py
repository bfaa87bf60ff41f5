#!/usr/bin/env python3
"""What NVIDIA's container toolkit (1.20) would put into a CDI spec of a driver root, by its published rules. A second opinion:
it shares no line, table or format reader with the program that it is held against.

    nvidia_rules.py ROOT VERSION      prints one item a line: "library libcuda.so.1", "link TARGET NAME", "node 0 /dev/nvidia0", ...

Where NVIDIA's order of search decides, it is followed; where a file goes in the container is not told, since that differs by
design.
"""
import glob
import os
import re
import stat
import struct
import sys

ROOT, VERSION = os.path.realpath(sys.argv[1]), sys.argv[2]
found = set()


def inside(path):
    return ROOT + path


def resolve(path, depth=0):
    """The path with its links followed inside the root, or None."""
    if depth > 40:
        return None
    done = ""
    parts = [part for part in path.split("/") if part]
    while parts:
        part = parts.pop(0)
        if part == "..":
            done = os.path.dirname(done)
            continue
        here = f"{done}/{part}"
        if os.path.islink(inside(here)):
            target = os.readlink(inside(here))
            base = target if target.startswith("/") else f"{done}/{target}"
            return resolve(base + "/" + "/".join(parts) if parts else base, depth + 1)
        done = here
    return done if os.path.exists(inside(done)) else None


def names(path):
    real = resolve(path)
    return sorted(os.listdir(inside(real))) if real and os.path.isdir(inside(real)) else []


# --- the library locator: fixed directories in order, then the loader's cache; the first that has anything wins -------------
ARCHES = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
DIRS = ["/", "/usr/lib64"] + [f"/usr/lib/{a}" for a in ARCHES] + [f"/usr/lib/{a}/nvidia/current" for a in ARCHES]
DIRS += ["/lib64"] + [f"/lib/{a}" for a in ARCHES] + [f"/lib/{a}/nvidia/current" for a in ARCHES]


def cache():
    """(name, path) of the 64-bit entries of ld.so.cache, new form."""
    try:
        data = open(inside("/etc/ld.so.cache"), "rb").read()
    except OSError:
        return []
    start = data.find(b"glibc-ld.so.cache1.1")
    if start < 0:
        return []
    count = struct.unpack_from("<I", data, start + 20)[0]
    text = lambda at: data[start + at : data.index(b"\0", start + at)].decode()
    entries = []
    for at in range(start + 48, start + 48 + 24 * count, 24):
        flags, key, value = struct.unpack_from("<III", data, at)
        if flags >> 8 & 0xFF in (3, 10):
            entries.append((text(key), text(value)))
    return entries


CACHE = cache()


def locate(pattern):
    """Real files of the first place where the pattern (a glob of a file name) has any."""
    test = re.compile("^" + re.escape(pattern).replace(r"\*", ".*") + "$")
    hits = [resolve(f"{d}/{n}") for d in DIRS for n in names(d) if test.match(n)]
    if not hits:
        for name, path in CACHE:
            real = resolve(path)
            # every name on the way of links counts
            chain = {name, os.path.basename(path)} | ({os.path.basename(real)} if real else set())
            if real and any(test.match(one) for one in chain):
                hits.append(real)
    return sorted({hit for hit in hits if hit and os.path.isfile(inside(hit))})


driver_dirs = sorted({os.path.dirname(path) for path in locate(f"lib*.so.{VERSION}")})
for directory in driver_dirs:
    for below in (directory, f"{directory}/vdpau"):
        for name in names(below):
            if name.endswith(f".so.{VERSION}") and (real := resolve(f"{below}/{name}")):
                found.add(("library", os.path.basename(real)))
for pattern in [
    "libnvidia-nvvm70.so.*",
    "libnvidia-egl-gbm.so.*.*",
    "libnvidia-egl-wayland.so.*.*",
    "libnvidia-egl-wayland2.so.*.*",
    f"libnvidia-vulkan-producer.so.{VERSION}",
]:
    for path in locate(pattern):
        found.add(("library", os.path.basename(path)))

# --- X: the first place of each ------------------------------------------------------------------------------------------------
places = []
for directory in driver_dirs:
    places += [f"{directory}/nvidia/xorg", f"{directory}/xorg/modules/drivers", f"{directory}/xorg/modules/extensions"]
    places += [f"{directory}/xorg/modules/updates/drivers", f"{directory}/xorg/modules/updates/extensions"]
for directory in ("/usr/lib", "/usr/lib64", "/usr/X11R6/lib"):
    places += [f"{directory}/xorg/modules{sub}" for sub in ("/drivers", "/extensions", "/updates/drivers", "/updates/extensions")]
for name in ("nvidia_drv.so", f"libglxserver_nvidia.so.{VERSION}"):
    if any(name in names(place) for place in places):
        found.add(("library", name))
        if name != "nvidia_drv.so":
            found.add(("link", name, "libglxserver_nvidia.so"))

# --- names of libraries: those that the host has, and those that are always made ------------------------------------------------


libraries = {}
for directory in driver_dirs:
    for name in names(directory):
        if name.endswith(f".so.{VERSION}") and (real := resolve(f"{directory}/{name}")):
            libraries[os.path.basename(real)] = real
# by the C library's own tool; the rules say: from the file's dynamic section
dynamic = os.popen("readelf -d -- " + " ".join(f"'{inside(path)}'" for path in libraries.values()) + " 2>/dev/null").read()
sonames = {}
for part in dynamic.split("\nFile: ")[1:] if len(libraries) > 1 else []:
    match = re.search(r"\(SONAME\).*\[(.*)\]", part)
    if match:
        sonames[os.path.basename(part.splitlines()[0])] = match.group(1)
for file, path in libraries.items():
    own = sonames.get(file)
    directory, stem = os.path.dirname(path), file[: file.index(".so") + 3]
    there = lambda name: os.path.lexists(inside(f"{directory}/{name}"))
    if own and own != file and there(own):
        found.add(("link", file, own))
        if there(stem):
            found.add(("link", own, stem))
if any(file.startswith("libcuda.so.") for file in libraries):
    found.add(("link", "libcuda.so.1", "libcuda.so"))
if any(file.startswith("libnvidia-opticalflow.so.") for file in libraries):
    found.add(("link", "libnvidia-opticalflow.so.1", "libnvidia-opticalflow.so"))
if f"libGLX_nvidia.so.{VERSION}" in libraries:
    found.add(("link", f"libGLX_nvidia.so.{VERSION}", "libGLX_indirect.so.0"))
if any(file.startswith("libnvidia-allocator.so.") for file in libraries):
    found.add(("link", "../libnvidia-allocator.so.1", "gbm/nvidia-drm_gbm.so"))

# --- programs, firmware, configuration, sockets -----------------------------------------------------------------------------------
PATH = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
for name in "nvidia-smi nvidia-debugdump nvidia-persistenced nvidia-cuda-mps-control nvidia-cuda-mps-server nvidia-imex nvidia-imex-ctl".split():
    for directory in PATH:
        real = resolve(f"{directory}/{name}")
        if real and os.path.isfile(inside(real)) and os.access(inside(real), os.X_OK):
            found.add(("program", name))
            break


def text(path):
    try:
        return open(inside(path)).read().strip()
    except OSError:
        return ""


release, custom = text("/proc/sys/kernel/osrelease"), text("/sys/module/firmware_class/parameters/path")
for place in [custom, f"/lib/firmware/updates/{release}", "/lib/firmware/updates", f"/lib/firmware/{release}", "/lib/firmware"]:
    hits = [n for n in names(f"{place}/nvidia/{VERSION}") if re.match(r"gsp.*\.bin$", n)] if place else []
    for name in hits:
        found.add(("firmware", name))
    if hits:
        break

CONFIG = ["/etc", "/usr/local/share", "/usr/share"]
for name in [
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/09_nvidia_wayland2.json",
    "nvidia/nvoptix.bin",
    "X11/xorg.conf.d/10-nvidia.conf",
    "X11/xorg.conf.d/nvidia-drm-outputclass.conf",
    "OpenCL/vendors/nvidia.icd",
]:
    if any(resolve(f"{place}/{name}") for place in CONFIG):
        found.add(("data", os.path.basename(name)))
for name in [
    "vulkan/icd.d/nvidia_icd.json",
    "vulkan/icd.d/nvidia_layers.json",
    "vulkan/icd.d/nvidia_icd.x86_64.json",
    "vulkan/implicit_layer.d/nvidia_layers.json",
]:
    if any(resolve(f"{place}/{name}") for place in CONFIG + [""]):
        found.add(("data", os.path.basename(name)))
for pair in [
    ("/run/nvidia-persistenced/socket", "/var/run/nvidia-persistenced/socket"),
    ("/run/nvidia-fabricmanager/socket", "/var/run/nvidia-fabricmanager/socket"),
    ("/tmp/nvidia-mps",),
]:
    for path in pair:
        if os.path.exists(inside(path)):
            found.add(("socket", path))
            break


# --- devices -------------------------------------------------------------------------------------------------------------------
def node(path):
    try:
        return stat.S_ISCHR(os.stat(inside(path)).st_mode)
    except OSError:
        return False


for path in ("/dev/nvidia-modeset", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"):
    if node(path):
        found.add(("node", "common", path))
minors = dict(line.split() for line in text("/proc/driver/nvidia-caps/mig-minors").splitlines())
for index, bdf in enumerate(names("/proc/driver/nvidia/gpus")):
    information = dict(
        [part.strip() for part in line.split(":", 1)] for line in text(f"/proc/driver/nvidia/gpus/{bdf}/information").splitlines()
    )
    minor, uuid = information["Device Minor"], information["GPU UUID"]
    own = [f"/dev/nvidia{minor}"]
    drm = [f"/dev/dri/{n}" for n in names(f"/sys/bus/pci/devices/{bdf}/drm") if re.match(r"(card|renderD|controlD)\d+$", n)]
    parts = names(f"/proc/driver/nvidia/capabilities/gpu{minor}/mig")
    if parts:
        for part in parts:
            gi = f"gpu{minor}/{part}"
            caps = [f"/dev/nvidia-caps/nvidia-cap{minors[f'{gi}/{at}']}" for at in ("access", "ci0/access")]
            for path in own + caps:
                found.add(("part", path))
        continue
    for name in (str(index), uuid):
        for path in own + drm:
            if node(path):
                found.add(("node", name, path))
    for kind in ("card", "render"):
        link = f"/dev/dri/by-path/pci-{bdf}-{kind}"
        if os.path.islink(inside(link)) and f"/dev/dri/{os.path.basename(os.readlink(inside(link)))}" in drm:
            found.add(("link", os.readlink(inside(link)), f"by-path/pci-{bdf}-{kind}"))
found.add(("env", "NVIDIA_VISIBLE_DEVICES=void"))
if driver_dirs:
    found.add(("env", "NVIDIA_CTK_LIBCUDA_DIR=" + ":".join(driver_dirs)))

for item in sorted(found):
    print(" ".join(item))
