#!/bin/sh
# look.sh before|up|down: root's look at the host of `lab up`, by SSH. One step a line: "LAB: STEP ok|fail EVIDENCE";
# crates/sim/src/lab/up.rs has the list of steps.
export NO_COLOR=1 LC_ALL=C HOME=/root
tools=/run/thruway-lab
state=/var/lib/thruway-lab
pci=/sys/bus/pci/devices
gpu=0000:01:00.0
audio=0000:01:00.1
guest=gpu-guest
mkdir -p "$state"

judge() {
    step=$1 evidence=$2
    shift 2
    if "$@"; then echo "LAB: $step ok $evidence"; else echo "LAB: $step fail $evidence"; fi
}
driver() {
    if [ -L "$pci/$1/driver" ]; then basename "$(readlink "$pci/$1/driver")"; else echo none; fi
}
# With its own loader and libraries, those of the machine that built it.
thruway() { "$tools/lib/loader" --library-path "$tools/lib" "$tools/thruway" "$@"; }
# All that a human or thruway writes below /etc and /boot; what update-grub and update-initramfs make is no part of it.
listing() {
    {
        find /etc /boot -printf '%p %M %U:%G %l\n'
        find /etc /boot -type f -exec sha256sum {} +
    } | grep -v -e ' \?/boot/grub/grub\.cfg' -e ' \?/boot/initrd\.img' | sort
}
# `none`, or the driver of the sound function, which udev may still be at.
settle() {
    tries=0
    until [ "$(driver "$audio")" != none ] || [ "$tries" -ge 60 ]; do
        sleep 1
        tries=$((tries + 1))
    done
}
groups() { ls /sys/kernel/iommu_groups 2>/dev/null | wc -l; }
words() { echo $(cat "$1"); }
running() { virsh -q domstate "$guest" 2>&1 | head -n 1; }
given() { virsh -q dumpxml --inactive "$guest" 2>&1 | grep -c '<hostdev'; }

before() {
    settle
    judge boot "Linux $(uname -r), $(cat /proc/cmdline)" grep -q '^BOOT_IMAGE=/boot/vmlinuz' /proc/cmdline
    judge off "$(groups) IOMMU groups" [ "$(groups)" = 0 ]
    judge card "$gpu: driver $(driver "$gpu"), $audio: driver $(driver "$audio")" [ "$(driver "$audio")" = snd_hda_intel ]
    judge vm "$guest: $(running), $(given) devices of the host" [ "$(running) $(given)" = "shut off 0" ]
    words /proc/cmdline >"$state/cmdline"
    echo "$(driver "$gpu") and $(driver "$audio")" >"$state/drivers"
    ls /dev/vfio >"$state/nodes" 2>&1
    thruway gpus >"$state/gpus" 2>&1
    listing >"$state/before"
    sync
}

up() {
    judge reboot "$(cat /proc/cmdline)" grep -q 'intel_iommu=on' /proc/cmdline
    now="$(driver "$gpu") $(driver "$audio")"
    judge bound "$gpu: driver $(driver "$gpu"), $audio: driver $(driver "$audio")" [ "$now" = "vfio-pci vfio-pci" ]
    group=$(basename "$(readlink "$pci/$gpu/iommu_group")")
    vm=$(cat "/run/libvirt/qemu/$guest.pid")
    held() { [ "$(running) $(given)" = "running 2" ] && ls -l "/proc/$vm/fd" | grep -q "/dev/vfio/$group\$"; }
    judge started "$guest: $(running), $(given) devices of the host, process $vm has /dev/vfio/$group" held
}

down() {
    settle
    judge reboot-back "$(cat /proc/cmdline)" [ "$(words /proc/cmdline)" = "$(cat "$state/cmdline")" ]
    now="$(driver "$gpu") and $(driver "$audio")"
    judge drivers-back "$now" [ "$now" = "$(cat "$state/drivers")" ]
    listing >"$state/after"
    differing=$(diff "$state/before" "$state/after" | grep '^[<>]' | head -n 3 | tr '\n' ' ')
    judge files "$(wc -l <"$state/before") lines compared${differing:+, differing: $differing}" cmp -s "$state/before" "$state/after"
    judge vm-back "$guest: $(running), $(given) devices of the host" [ "$(running) $(given)" = "shut off 0" ]
    ls /dev/vfio >"$state/nodes-after" 2>&1
    loaded=$(grep -c '^vfio' /proc/modules)
    gone() { [ "$(groups) $loaded" = "0 0" ] && cmp -s "$state/nodes" "$state/nodes-after"; }
    judge node-gone "$(groups) IOMMU groups, $loaded modules of vfio, /dev/vfio: $(words "$state/nodes-after")" gone
    thruway gpus >"$state/gpus-after" 2>&1
    judge seen-back "thruway gpus says what it said at first" cmp -s "$state/gpus" "$state/gpus-after"
}

case $1 in
    before | up | down) "$1" ;;
    *) exit 2 ;;
esac
