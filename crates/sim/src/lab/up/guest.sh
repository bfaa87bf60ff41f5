#!/bin/sh
# The first process of the guest of `lab up`, on its disk: network, SSH, and what a driver's kernel module would show. No
# module is here; all of that is simulated.
export PATH=/usr/sbin:/usr/bin HOME=/root
exec </dev/console >/dev/console 2>&1
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o mode=1777 tmp /tmp
mkdir -p /dev/pts /run/sshd
mount -t devpts -o mode=620,ptmxmode=666 devpts /dev/pts
mount -t cgroup2 cgroup /sys/fs/cgroup
hostname gpu-guest
ip link set lo up
ip address add 10.0.3.2/24 dev eth0
ip link set eth0 up

# Where the card is, if it is here.
card=
for function in /sys/bus/pci/devices/*; do
    read -r vendor <"$function/vendor"
    read -r class <"$function/class"
    case "$vendor $class" in "0x10de 0x03"*) card=${function##*/} ;; esac
done
if [ -n "$card" ]; then
    mount -t tmpfs driver /proc/driver
    cp -a /lab/driver/proc/driver/. /proc/driver/
    mv "/proc/driver/nvidia/gpus/0000:01:00.0" "/proc/driver/nvidia/gpus/$card"
    chmod 644 "/proc/driver/nvidia/gpus/$card/information"
    sed -i "s/0000:01:00.0/$card/" "/proc/driver/nvidia/gpus/$card/information"
    awk '/^Block/ { exit } /^ *[0-9]/' /lab/driver/proc/devices >/run/ours
    sed '/^Character devices:/r /run/ours' /proc/devices >/run/devices
    mount --bind /run/devices /proc/devices
    for node in nvidia0:195:0 nvidiactl:195:255 nvidia-uvm:238:0 nvidia-uvm-tools:238:1; do
        rest=${node#*:}
        mknod -m 666 "/dev/${node%%:*}" c "${rest%:*}" "${rest#*:}"
    done
    # Simulated NVML is told where its card is: here, and in the image of the container.
    bus=${card#*:} device=${card##*:}
    for box in /usr/lib/x86_64-linux-gnu/nvidia/current /lab/bundle/rootfs/usr/lib/x86_64-linux-gnu; do
        { cat /lab/driver/box.toml; printf '[gpus.set]\nat = [0, 0x%s, 0x%s]\n' "${bus%%:*}" "${device%.*}"; } \
            >"$box/thruway-sim/nvml.toml"
    done
    echo "GUEST~ a card is at $card"
else
    echo "GUEST~ no card"
fi
/usr/sbin/sshd
echo "GUEST~ its SSH server listens"
# The power button: libvirt's word for shutting down.
(
    button=$(awk '/^N:/ { power = /Power Button/ } /^H:/ && power { print }' /proc/bus/input/devices | grep -o 'event[0-9]*')
    head -c 24 "/dev/input/$button" >/dev/null || exit
    echo "GUEST~ the power button"
    killall sshd
    sync
    mount -o remount,ro /
    poweroff -f
) &
while :; do wait; sleep 5; done
