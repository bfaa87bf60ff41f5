#!/bin/busybox sh
# The first process of the guest of `lab up`, in its initramfs: goes over to the disk.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
dmesg -n 1
echo "GUEST~ Linux $(uname -r)"
while read -r module; do insmod "/modules/$module" || echo "GUEST~ no $module"; done </modules/order
tries=0
until [ -b /dev/vda ] || [ "$tries" -ge 60 ]; do
    sleep 1
    tries=$((tries + 1))
done
mkdir -p /new
mount -t ext4 /dev/vda /new || { echo "GUEST~ its disk cannot be mounted"; poweroff -f; }
# Who made the disk may not have been root.
[ -e /new/lab/owned ] || { chown -hR 0:0 /new && touch /new/lab/owned; }
mount --move /dev /new/dev
mount --move /proc /new/proc
mount --move /sys /new/sys
exec switch_root /new /lab/init
