#!/bin/sh
# Runs at each boot of the host of `lab up`, as a unit of its systemd: network, SSH, libvirt. What is to be shown is asked
# by SSH (look.sh); this script only says on the serial console how far it is.
exec </dev/null >/dev/ttyS0 2>&1
tools=/run/thruway-lab
keys=/run/thruway-lab-ssh
console=/var/log/libvirt/qemu/gpu-guest.console
dmesg -n 1
# Of this boot, not of the last one.
rm -f "$console"
# An orphaned host ends by itself.
(sleep 7200; echo o >/proc/sysrq-trigger) &

mkdir -p -m 700 "$keys"
install -m 600 "$tools/host_key" "$keys/host_key"
install -m 644 "$tools/authorized_keys" "$keys/authorized_keys"
# sshd asks for the directory's mode too, and every user of it must read the list.
chmod 755 "$keys"
# udev may still be at it.
nic=
tries=0
until [ -n "$nic" ] || [ "$tries" -ge 60 ]; do
    for link in /sys/class/net/*; do
        case $(readlink "$link/device/driver") in */virtio_net) nic=${link##*/} ;; esac
    done
    [ -n "$nic" ] || sleep 1
    tries=$((tries + 1))
done
ip link set "$nic" up
ip address add 10.0.2.15/24 dev "$nic"
# The guests' own network: the host and they.
ip link add labbr0 type bridge
ip address add 10.0.3.1/24 dev labbr0
ip link set labbr0 up
mkdir -p /run/sshd
systemctl start ssh
modprobe kvm-amd
echo "LAB~ libvirt starts"
systemctl start virtlogd.socket libvirtd
[ -e /etc/libvirt/qemu/gpu-guest.xml ] || virsh -q define "$tools/gpu-guest.xml"
sync
: >"$keys/ready"
echo "LAB~ the host is ready"
# What the guest says of its boot, for whoever watches.
until [ -e "$console" ]; do sleep 2; done
tail -n +1 -F "$console" 2>/dev/null | while IFS= read -r line; do
    case $line in
        *"GUEST~ "*) echo "LAB~ guest: ${line#*GUEST~ }" ;;
        *"Kernel panic"*) echo "LAB~ guest: $line" ;;
    esac
done
