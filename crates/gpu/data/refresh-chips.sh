#!/bin/sh
# Makes chips.txt again from a copy of the PCI ID database:
#   ./refresh-chips.sh /usr/share/misc/pci.ids > chips.txt
# Needs awk and sort. The newest database is at https://pci-ids.ucw.cz/ (on Debian: the package pci.ids of sid).
set -eu
ids=${1:-/usr/share/misc/pci.ids}
version=$(sed -n 's/^#[[:space:]]*Version: *//p' "$ids" | head -n 1)
cat <<HEAD
# NVIDIA's GPUs by PCI device id: chip, generation, device ids. What is not here is unknown, and said to be.
# Made by refresh-chips.sh from the PCI ID database, version $version, https://pci-ids.ucw.cz/, copyright Martin Mares
# and Albert Pool, used under the 3-clause BSD licence (data/LICENSE.pci.ids). Chips and ids alone, no names.
HEAD
awk '
# A chip by its name'"'"'s letters; what no driver branch of ours speaks of (older than G80, Tegra) has none.
function generation(family, number) {
    if (family == "G" && number >= 80 || family == "GT") return "tesla"
    if (family == "GF") return "fermi"
    if (family == "GK") return "kepler"
    if (family == "GM") return "maxwell"
    if (family == "GP") return "pascal"
    if (family == "GV") return "volta"
    if (family == "TU") return "turing"
    if (family == "GA") return "ampere"
    if (family == "AD") return "ada"
    if (family == "GH") return "hopper"
    if (family == "GB") return "blackwell"
    return ""
}
/^#/ { next }
/^[0-9a-f]/ { ours = ($1 == "10de"); next }
!ours || !/^\t[0-9a-f]/ { next }
# Functions beside the GPU, and what is no PCI card of its own.
/[Aa]udio|USB|UCSI|[Bb]ridge|SMBus|NVSwitch|PCIe host|Root Port| RP |Tegra|Jetson|Reserved|Generic-GPU/ { next }
{
    name = $2
    if (!match(name, /^[A-Z]+[0-9]+[a-z]?/)) next
    chip = substr(name, 1, RLENGTH)
    match(chip, /^[A-Z]+/)
    family = substr(chip, 1, RLENGTH)
    number = substr(chip, RLENGTH + 1) + 0
    # G80 to GT218 by number; the others have three digits (GB20B: the last one a letter).
    if (name ~ /^GB[0-9][0-9]B/) chip = substr(name, 1, 5)
    else if (family != "G" && number < 100) next
    if (family == "G" && number < 80) next
    gen = generation(family, number)
    if (gen == "") next
    if (!(chip in ids)) { first[chip] = $1; of[chip] = gen }
    ids[chip] = ids[chip] " " $1
}
END { for (chip in ids) print first[chip], chip, of[chip] ids[chip] }
' "$ids" | LC_ALL=C sort | cut -d' ' -f2-
