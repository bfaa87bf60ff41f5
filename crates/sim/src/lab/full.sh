#!/bin/sh
# Runs at each boot of the full lab's host, as a unit of its systemd. It says what it sees on the serial console, one
# step a line: "LAB: STEP ok|fail EVIDENCE"; crates/sim/src/lab/full.rs has the list of steps. Which boot it is stands
# on the disk.
exec </dev/null >/dev/ttyS0 2>&1
export NO_COLOR=1 LC_ALL=C HOME=/root
tools=/run/thruway-lab
state=/var/lib/thruway-lab
pci=/sys/bus/pci/devices
gpu=0000:01:00.0
audio=0000:01:00.1
mkdir -p "$state"
# The console is for these lines from now on.
dmesg -n 1
# An orphaned host ends by itself.
(sleep 1800; echo o >/proc/sysrq-trigger) &

finish() {
    echo "LAB: end"
    # The line must be through the UART before the machine goes.
    sleep 1
    echo o >/proc/sysrq-trigger
    sleep 60
}
# next N: boots once more, as boot N.
next() {
    echo "$1" >"$state/boot"
    echo "LAB~ systemctl reboot"
    systemctl reboot
    exit
}
# judge STEP EVIDENCE TEST...: the test decides.
judge() {
    step=$1 evidence=$2
    shift 2
    if "$@"; then echo "LAB: $step ok $evidence"; else echo "LAB: $step fail $evidence"; fi
}
driver() {
    if [ -L "$pci/$1/driver" ]; then basename "$(readlink "$pci/$1/driver")"; else echo none; fi
}
# With its own loader and libraries, those of the machine that built it, and none of them in its children's way.
thruway() { "$tools/lib/loader" --library-path "$tools/lib" "$tools/thruway" "$@"; }
# run NAME ARGUMENTS...: runs thruway, shows what it says while it says it and leaves it in $state/NAME, status in $status.
run() {
    name=$1
    shift
    echo "LAB~ thruway $*"
    # update-initramfs says nothing for a minute and more.
    (while sleep 30; do echo "LAB~ still at it"; done) &
    beat=$!
    { thruway "$@" 2>&1; echo "$?" >"$state/status"; } | while IFS= read -r line; do
        printf '%s\n' "$line"
        case $line in
            "["[0-9]*"/"[0-9]*"] "*) echo "LAB~ $line" >/dev/ttyS0 ;;
            *) echo "LAB> $line" >/dev/ttyS0 ;;
        esac
    done >"$state/$name"
    kill "$beat"
    read -r status <"$state/status"
}
# says NAME WORDS
says() { grep -q -- "$2" "$state/$1"; }
# All that a human or thruway writes below /etc and /boot; what update-grub and update-initramfs make is no part of it.
listing() {
    {
        find /etc /boot -printf '%p %M %U:%G %l\n'
        find /etc /boot -type f -exec sha256sum {} +
    } | grep -v -e ' \?/boot/grub/grub\.cfg' -e ' \?/boot/initrd\.img' | sort
}
groups() { ls /sys/kernel/iommu_groups 2>/dev/null | wc -l; }
# words FILE: in one line, however they are spaced.
words() { echo $(cat "$1"); }
nodes() { echo $(ls /dev/vfio 2>/dev/null); }
finished() { [ "$status" = 0 ]; }
initrd_has_it() {
    grep -q '/vfio-pci\.ko' "$state/initrd" && grep -q 'init-top/thruway-vfio' "$state/initrd"
}
# since WORDS: when the kernel said them, in microseconds.
since() { dmesg | sed -n "s/^\[ *\([0-9]*\)\.\([0-9]*\)\] $1.*/\1\2/p" | head -n 1; }

earlier() { [ -n "$vfio" ] && [ "$vfio" -lt "${root:-0}" ]; }

# settle: the sound driver has the audio function, or a minute is over: udev may still be at it.
settle() {
    tries=0
    until [ "$(driver "$audio")" != none ] || [ "$tries" -ge 60 ]; do
        sleep 1
        tries=$((tries + 1))
    done
}
# guest: a guest gets the card, says what it sees, and ends.
guest() {
    echo "LAB~ a guest with the card boots"
    (while sleep 30; do echo "LAB~ still at it"; done) &
    beat=$!
    timeout 500 "$tools/lib/loader" --library-path "$tools/lib" "$tools/qemu" -L "$tools/share" \
        -accel kvm -M q35 -nodefaults -no-reboot -m 512 -display none -serial stdio \
        -kernel "$tools/guest/vmlinuz" -initrd "$tools/guest/initramfs" \
        -append "console=ttyS0 panic=-1 quiet no_timer_check mitigations=off" \
        -device pcie-root-port,id=rp1,slot=1 \
        -device "vfio-pci,host=$gpu,bus=rp1,addr=0.0,multifunction=on,rombar=0" \
        -device "vfio-pci,host=$audio,bus=rp1,addr=0.1" >"$state/guest" 2>&1
    kill "$beat"
    sed 's/^/LAB> guest: /' "$state/guest"
    saw() { grep -o -m 1 "$1" "$state/guest" | tr -d '\r'; }
    judge guest-boots "$(saw 'INNER: Linux.*')" says guest 'INNER: Linux'
    judge guest-gpu "$(saw '.*10de:1d01.*')" says guest 'INNER>.*10de:1d01'
    judge guest-audio "$(saw '.*10de:0fb8.*')" says guest 'INNER>.*10de:0fb8'
}

first() {
    install -m 600 "$tools/jellyfin.xml" /etc/libvirt/qemu/jellyfin.xml
    # Kernel and udev make the node of vfio itself for its module's sake, loaded or not.
    nodes >"$state/nodes"
    words /proc/cmdline >"$state/cmdline"
    judge boot "Linux $(uname -r), $(cat /proc/cmdline)" grep -q '^BOOT_IMAGE=/boot/vmlinuz' /proc/cmdline
    judge off "$(groups) IOMMU groups" [ "$(groups)" = 0 ]
    ids=
    for function in $gpu $audio; do
        read -r vendor 2>/dev/null <"$pci/$function/vendor"
        read -r device 2>/dev/null <"$pci/$function/device"
        read -r class 2>/dev/null <"$pci/$function/class"
        ids="$ids${ids:+, }$function ${vendor#0x}:${device#0x} class ${class#0x}"
    done
    judge card "$ids" [ "$ids" = "$gpu 10de:1d01 class 030000, $audio 10de:0fb8 class 040300" ]
    settle
    driver "$gpu" >"$state/gpu"
    driver "$audio" >"$state/audio"
    judge audio "$audio: driver $(driver "$audio")" [ "$(driver "$audio")" = snd_hda_intel ]
    run gpus gpus
    run doctor doctor
    fails() { [ "$status" = 1 ] && says doctor host/iommu-kernel-off; }
    judge doctor-fails "exit status $status, $(grep -o 'host/[a-z-]*' "$state/doctor" | head -n 1)" fails
    listing >"$state/before"
    run plan host plan --give 01:00.0
    listing >"$state/planned"
    planned() { finished && says plan intel_iommu=on && says plan update-initramfs && cmp -s "$state/before" "$state/planned"; }
    judge plan "exit status $status, $(tail -n 1 "$state/plan")" planned
    run apply host apply --give 01:00.0 --yes
    judge apply "exit status $status, $(grep -m 1 'Applied' "$state/apply")" finished
    finished || finish
    generated() { grep -q 'linux.*intel_iommu=on' /boot/grub/grub.cfg && ! grep -q 'intel_iommu=off' /boot/grub/grub.cfg && initrd_has_it; }
    lsinitramfs "/boot/initrd.img-$(uname -r)" >"$state/initrd" 2>&1
    carries=$(grep -o '[^/]*vfio[^/]*$' "$state/initrd" | sort -u | tr '\n' ' ')
    judge generated "$(grep -m 1 -o 'intel_iommu=[a-z]*' /boot/grub/grub.cfg); $carries" generated
    run verify host verify
    judge pending "exit status $status, $(grep -c pending "$state/verify") things wait for the reboot" says verify 'pending: waits for a reboot'
    next 2
}

second() {
    judge reboot "$(cat /proc/cmdline)" grep -q 'intel_iommu=on' /proc/cmdline
    judge iommu "$(groups) IOMMU groups, $(grep -c IR- /proc/interrupts) remapped interrupts" [ "$(groups)" -gt 0 ]
    group=$(basename "$(readlink "$pci/$gpu/iommu_group")")
    members=$(echo $(ls "$pci/$gpu/iommu_group/devices"))
    judge group "group $group: $members" [ "$members" = "$gpu $audio" ]
    judge bound-gpu "$gpu: driver $(driver "$gpu")" [ "$(driver "$gpu")" = vfio-pci ]
    judge bound-audio "$audio: driver $(driver "$audio")" [ "$(driver "$audio")" = vfio-pci ]
    vfio=$(since 'VFIO - User Level')
    root=$(since 'EXT4-fs (vda1): mounted')
    judge early "microseconds since the kernel's start: vfio $vfio, root file system $root" earlier
    judge node "$(ls -l "/dev/vfio/$group" 2>&1)" [ -c "/dev/vfio/$group" ]
    run verify host verify
    held() { finished && ! says verify pending && says verify "/dev/vfio/$group"; }
    judge verified "exit status $status, $(grep -c '●' "$state/verify") things are so" held
    run doctor doctor
    judge doctor-well "exit status $status, $(tail -n 1 "$state/doctor")" finished
    run plan host plan --give 01:00.0
    empty() { finished && says plan 'Nothing to change'; }
    judge again "exit status $status" empty
    modprobe kvm-amd
    judge kvm "$(ls -l /dev/kvm 2>&1)" [ -c /dev/kvm ]
    guest
    run verify host verify
    judge guest-gone "$gpu: driver $(driver "$gpu"), $audio: driver $(driver "$audio")" held
    echo "LAB~ update-grub and update-initramfs run again"
    run undo undo --yes
    judge undo "exit status $status, $(tail -n 1 "$state/undo")" finished
    finished || finish
    listing >"$state/after"
    differing=$(diff "$state/before" "$state/after" | grep '^[<>]' | head -n 3 | tr '\n' ' ')
    judge files "$(wc -l <"$state/before") lines compared${differing:+, differing: $differing}" cmp -s "$state/before" "$state/after"
    next 3
}

third() {
    settle
    judge reboot-back "$(cat /proc/cmdline)" [ "$(words /proc/cmdline)" = "$(cat "$state/cmdline")" ]
    now="$(driver "$gpu") and $(driver "$audio")"
    judge drivers-back "$now" [ "$now" = "$(cat "$state/gpu") and $(cat "$state/audio")" ]
    loaded=$(grep -c '^vfio' /proc/modules)
    gone() { [ "$(groups) $loaded" = "0 0" ] && [ "$(nodes)" = "$(cat "$state/nodes")" ]; }
    judge node-gone "$(groups) IOMMU groups, $loaded modules of vfio, /dev/vfio: $(nodes)" gone
    cp "$state/gpus" "$state/gpus-before"
    run gpus gpus
    judge seen-back "thruway gpus says what it said at first" cmp -s "$state/gpus" "$state/gpus-before"
    finish
}

case $(cat "$state/boot" 2>/dev/null) in
    "") first ;;
    2) second ;;
    3) third ;;
esac
