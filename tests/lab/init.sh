#!/bin/busybox sh
# Process 1 of the machine until the host's files are there; then the agent takes its place. lab.conf sets:
#   SHARE   folder of the host that may be written, mounted at the very path it has outside
#   AGENT   command line of the agent
/bin/busybox --install -s /bin
export PATH=/bin

fail() {
  echo "lab: init: $*" >/dev/console
  reboot -f # which ends QEMU, as -no-reboot says so
}

mount -t proc proc /proc && mount -t sysfs sysfs /sys && mount -t devtmpfs dev /dev || fail "no /proc, /sys and /dev"
. /lab.conf
for module in /modules/*; do
  insmod "$module" || fail "$module does not load"
done

# The host's own root below, only to be read; what is written goes to memory
mkdir /lower /rw /new
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=loose,ro root /lower || fail "no root file system"
mount -t tmpfs -o mode=755 tmpfs /rw && mkdir /rw/upper /rw/work || fail "no memory to write to"
mount -t overlay -o lowerdir=/lower,upperdir=/rw/upper,workdir=/rw/work overlay /new || fail "no overlay"
for kept in proc sys dev; do
  mount --move "/$kept" "/new/$kept"
done
mkdir -p /new/dev/pts /new/dev/shm
mount -t devpts devpts /new/dev/pts
mount -t tmpfs tmpfs /new/dev/shm
for name in fd:fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
  ln -sf "/proc/self/${name#*:}" "/new/dev/${name%:*}"
done
mount -t cgroup2 cgroup2 /new/sys/fs/cgroup || fail "no cgroup v2"
# Empty, whatever the host has there: what runs on the host is no business of the machine
for empty in /run /var/lib/kvmaff; do
  mkdir -p "/new$empty" && mount -t tmpfs -o mode=755 tmpfs "/new$empty" || fail "no $empty"
done
mkdir /new/run/home && mkdir -m 1777 /new/run/tmp
mkdir -p "/new$SHARE"
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=none share "/new$SHARE" || fail "no shared folder"
ifconfig lo up
hostname kvmaff-lab
eval "exec switch_root /new $AGENT"
fail "no agent"
