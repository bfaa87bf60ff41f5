#!/bin/busybox sh
# The first and only process of the lab's guest: this head, and what the form adds. It says what it sees on the serial
# console, one step a line: "LAB: STEP ok|fail EVIDENCE"; crates/sim/src/lab/serial.rs reads it.
export PATH=/bin LD_LIBRARY_PATH=/lib HOME=/ NO_COLOR=1
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
dmesg -n 1
pci=/sys/bus/pci/devices

finish() {
    echo "LAB: end"
    # The line must be through the UART before the machine goes.
    sleep 1
    poweroff -f
}
# An orphaned guest ends by itself.
(sleep 600; poweroff -f) &

# judge STEP EVIDENCE TEST...: the test decides.
judge() {
    step=$1 evidence=$2
    shift 2
    if "$@"; then echo "LAB: $step ok $evidence"; else echo "LAB: $step fail $evidence"; fi
}
driver() {
    if [ -L "$pci/$1/driver" ]; then basename "$(readlink "$pci/$1/driver")"; else echo none; fi
}
# look NAME: runs thruway gpus, shows what it says and leaves it in /NAME.
look() {
    thruway gpus >"/$1" 2>&1
    status=$?
    sed 's/^/LAB> /' "/$1"
}
# hand NAME ARGUMENTS...: runs thruway host with these arguments, shows what it says and leaves it in /NAME.
hand() {
    name=$1
    shift
    thruway host "$@" </dev/null >"/$name" 2>&1
    status=$?
    sed 's/^/LAB> /' "/$name"
}

while read -r module; do insmod "/modules/$module"; done </modules/order

groups=$(ls /sys/kernel/iommu_groups | wc -l)
judge boot "Linux $(uname -r), $groups IOMMU groups" [ "$groups" -gt 0 ]

gpu= audio=
for function in "$pci"/*; do
    read -r vendor <"$function/vendor"
    read -r class <"$function/class"
    case "$vendor $class" in
        "0x10de 0x03"*) gpu=${function##*/} ;;
        "0x10de 0x0403"*) audio=${function##*/} ;;
    esac
done
if [ -z "$gpu" ] || [ -z "$audio" ]; then
    judge card "GPU: ${gpu:-none}, audio function: ${audio:-none}" false
    finish
fi
ids=
for function in $gpu $audio; do
    read -r vendor <"$pci/$function/vendor"
    read -r device <"$pci/$function/device"
    read -r class <"$pci/$function/class"
    ids="$ids${ids:+, }$function ${vendor#0x}:${device#0x} class ${class#0x}"
done
judge card "$ids" [ "$ids" = "$gpu 10de:1d01 class 030000, $audio 10de:0fb8 class 040300" ]

group=$(basename "$(readlink "$pci/$gpu/iommu_group")")
members=$(echo $(ls "$pci/$gpu/iommu_group/devices"))
judge group "group $group: $members" [ "$members" = "$gpu $audio" ]

gpu_was=$(driver "$gpu") audio_was=$(driver "$audio")
judge audio "$audio: driver $audio_was" [ "$audio_was" = snd_hda_intel ]
