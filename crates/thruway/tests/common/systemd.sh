# $1: an empty folder. systemd as the first process of namespaces of its own, over this machine's files: what it writes
# stays in the folder. Ends with whoever started it.
set -e
cd "$1"
mkdir -p upper work root
for controller in devices memory pids freezer systemd unified; do
  [ -d /sys/fs/cgroup/$controller ] || continue
  mkdir -p "/sys/fs/cgroup/$controller/$2"
  echo $$ > "/sys/fs/cgroup/$controller/$2/cgroup.procs"
done
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child --propagation private sh -ec '
mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
for controller in devices memory pids freezer; do
  mkdir sys/fs/cgroup/$controller
  mount -t cgroup -o $controller cgroup sys/fs/cgroup/$controller
done
mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
mount -t cgroup -o none,name=systemd cgroup sys/fs/cgroup/systemd
mount -t cgroup2 cgroup2 sys/fs/cgroup/unified
mount -t tmpfs -o mode=755 tmpfs dev
node() { mknod -m 666 "dev/$1" c "$2" "$3"; }
node null 1 3; node zero 1 5; node full 1 7; node random 1 8; node urandom 1 9; node tty 5 0; node kmsg 1 11
node nvidiactl 195 255; node nvidia0 195 0; node nvidia1 195 1
ln -s /proc/self/fd dev/fd
mkdir dev/pts dev/shm dev/char
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
printf "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\n" > etc/systemd/system/thruway-test.target
mkdir tmp/old
pivot_root . tmp/old
umount -l /tmp/old
export container=thruway
exec /lib/systemd/systemd --unit=thruway-test.target --log-target=console --show-status=no --log-level=warning
'
