# The nested form: what fails at a guest's start, then a guest with the card.

export PATH=/bin:/usr/bin

# Where a host without systemd keeps the kernel's words, and where libvirt keeps QEMU's. No libvirt runs here: the domain
# is written as it would write it, and its log likewise.
syslogd -O /var/log/messages
klogd
mkdir -p /var/log/libvirt/qemu
log=/var/log/libvirt/qemu/lab.log
now() { date -u '+%F %T.000+0000'; }

not() { ! "$@"; }
judge kvm "$(ls -l /dev/kvm 2>&1)" [ -c /dev/kvm ]

# start NAME PREFIX DEVICES...: QEMU with these devices, stopped before its guest's first instruction; its words in
# /NAME and in the domain's log. PREFIX is run before it, in the same shell.
start() {
    name=$1 prefix=$2
    shift 2
    : >"/$name"
    chmod 666 "/$name"
    command="$prefix exec timeout 60 qemu-system-x86_64 -accel kvm -M q35 -nodefaults -no-reboot -m 256 -display none -S \
        -device pcie-root-port,id=rp1,slot=1 $*"
    if [ -n "$prefix" ]; then
        su -s /bin/sh user -c "$command </dev/null >/$name 2>&1"
    else
        sh -c "$command" </dev/null >"/$name" 2>&1
    fi
    status=$?
    sed 's/^/LAB> /' "/$name"
    {
        echo "$(now): starting up libvirt version: 9.0.0, qemu version: 7.2.0, kernel: $(uname -r), hostname: lab"
        cat "/$name"
        echo "$(now): shutting down, reason=failed"
    } >>"$log"
}
# explained STEP NAME ERROR: thruway vm check, and explain on QEMU's bare words, know the error by this id.
explained() {
    # klogd hands the kernel's words on in its own time.
    sleep 1
    thruway vm check lab </dev/null >/check 2>&1
    sed 's/^/LAB> /' /check
    thruway explain <"/$2" >/explain 2>&1
    sed 's/^/LAB> /' /explain
    error=$3
    named() { grep -q "$error (" /check && grep -q "$error (" /explain; }
    judge "$1" "$(sed -n 's/^✗ //p' /explain | head -n 1)" named
}
first="-device vfio-pci,host=$gpu,bus=rp1,addr=0.0,multifunction=on,rombar=0"
second="-device vfio-pci,host=$audio,bus=rp1,addr=0.1"
# said NAME WORDS: QEMU ended with an error, by itself, and with these words.
said() { [ "$status" = 1 ] && grep -q "$2" "/$1"; }
words() { tail -n 1 "/$1"; }

echo "LAB~ starts that must fail"
thruway vm check lab </dev/null >/foretold 2>&1
sed 's/^/LAB> /' /foretold
judge foretold "$(grep -h '✗.*vfio-pci' /foretold)" grep -q 'host/driver-owns-card' /foretold
start nonode "" $first
judge no-node "$(words nonode)" said nonode "failed to open /dev/vfio/"
explained no-node-why nonode qemu/vfio-node-missing

echo vfio-pci >"$pci/$gpu/driver_override"
echo "$gpu" >/sys/bus/pci/drivers_probe
start unviable "" $first
judge not-viable "$(grep -h viable /unviable)" said unviable "is not viable"
explained not-viable-why unviable qemu/group-not-viable
echo "$gpu" >"$pci/$gpu/driver/unbind"
echo >"$pci/$gpu/driver_override"
echo "$gpu" >/sys/bus/pci/drivers_probe

hand bind bind "$gpu" --yes
both() { [ "$status $(driver "$gpu") $(driver "$audio")" = "0 vfio-pci vfio-pci" ]; }
judge bind "$gpu: driver $(driver "$gpu"), $audio: driver $(driver "$audio")" both

# Root is held to no limit.
chmod 666 "/dev/vfio/$group" /dev/vfio/vfio /dev/kvm
start nomemory "ulimit -l 64;" $first $second
judge no-memory "$(grep -h dma_map /nomemory | tail -n 1)" said nomemory "Cannot allocate memory"
explained no-memory-why nomemory qemu/memlock
judge no-memory-kernel "$(grep -h -m 1 RLIMIT_MEMLOCK /check | tr -s ' ')" grep -q 'kernel/memlock' /check

echo "LAB~ a guest with the card"
hint="thruway.dev/gpu:1;id=10de:1d01;pci=$gpu;slot=1"
qemu-system-x86_64 -accel kvm -M q35 -nodefaults -no-reboot -m 512 -display none -serial stdio \
    -kernel /guest/vmlinuz -initrd /guest/initramfs \
    -append "console=ttyS0 panic=-1 quiet no_timer_check mitigations=off" \
    -device pcie-root-port,id=rp1,slot=1 $first $second -smbios "type=11,value=$hint" \
    </dev/null >/guest.log 2>&1 &
vm=$!
tries=0
has_group() { ls -l "/proc/$vm/fd" 2>/dev/null | grep -q "/dev/vfio/$group$"; }
until has_group || [ "$tries" -ge 60 ]; do
    sleep 1
    tries=$((tries + 1))
done
judge started "process $vm has /dev/vfio/$group open" has_group
look running
judge held-by-vm "$(grep -h 'held by' /running | tr -s ' ')" grep -q 'held by *VM' /running
start busy "" $first
judge busy "$(words busy)" said busy "Device or resource busy"
explained busy-why busy qemu/vfio-busy
judge old-words "$(grep -c RLIMIT_MEMLOCK /var/log/messages) older line of the kernel, $(grep -c kernel/memlock /check) times told" not grep -q kernel/memlock /check

echo "LAB~ the guest boots"
tries=0
while kill -0 "$vm" 2>/dev/null && [ "$tries" -lt 240 ]; do
    sleep 1
    tries=$((tries + 1))
    [ $((tries % 20)) = 0 ] && echo "LAB~ the guest boots, for $tries s now: $(tail -n 1 /guest.log | tr -d '\r')"
done
kill "$vm" 2>/dev/null
wait "$vm"
sed 's/^/LAB> guest: /' /guest.log
inner=$(grep -h -o 'INNER: .*' /guest.log | tr -d '\r' | head -n 1)
judge guest-boots "${inner:-no word of the guest}" grep -q 'INNER: Linux' /guest.log
judge guest-gpu "$(grep -h -m 1 '10de:1d01' /guest.log | tr -d '\r')" grep -q 'INNER>.*10de:1d01' /guest.log
judge guest-audio "$(grep -h -m 1 '10de:0fb8' /guest.log | tr -d '\r')" grep -q 'INNER>.*10de:0fb8' /guest.log
judge guest-told "$(grep -h -m 1 'on host' /guest.log | tr -d '\r')" \
    grep -q "INNER>.*on host *$gpu, slot 1" /guest.log

hand unbind unbind "$gpu" --yes
judge unbind "thruway host unbind: exit status $status" [ "$status" = 0 ]
as_before() { [ "$(driver "$gpu") $(driver "$audio")" = "$gpu_was $audio_was" ]; }
judge drivers-back "$gpu: driver $(driver "$gpu"), $audio: driver $(driver "$audio")" as_before
finish
