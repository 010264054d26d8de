"""
A libvirtd of our own, in a mount namespace of its own: it knows nothing of another that may run here, nor that of it.

libvirt 9.0 wants a user libvirt-qemu and folders of its own; they exist in the namespace only. No cgroup is touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

LIBVIRTD = shutil.which("libvirtd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_libvirtd = pytest.mark.skipif(
    LIBVIRTD is None or shutil.which("virsh") is None or os.geteuid() != 0,
    reason="needs root, libvirtd and virsh",
)

_SETUP = r"""
set -e
own=$1 libvirtd=$2
for folder in /run /var/log /var/cache /var/lib /etc/libvirt; do
  mount -t tmpfs -o mode=0755 none "$folder"
done
mkdir -p /run/libvirt /var/log/libvirt /var/cache/libvirt /var/lib/libvirt
cp /etc/passwd /etc/group "$own"
grep -q ^kvm: "$own/group" || echo 'kvm:x:64000:' >> "$own/group"
grep -q ^libvirt-qemu: "$own/group" || echo 'libvirt-qemu:x:64055:' >> "$own/group"
grep -q ^libvirt-qemu: "$own/passwd" ||
  echo 'libvirt-qemu:x:64055:64000::/var/lib/libvirt:/usr/sbin/nologin' >> "$own/passwd"
mount --bind "$own/passwd" /etc/passwd
mount --bind "$own/group" /etc/group
cat > /etc/libvirt/qemu.conf <<CONF
user = "root"
group = "root"
security_driver = "none"
stdio_handler = "file"
namespaces = []
remember_owner = 0
cgroup_controllers = []
CONF
cat > "$own/libvirtd.conf" <<CONF
unix_sock_dir = "$own"
auth_unix_rw = "none"
CONF
exec "$libvirtd" -f "$own/libvirtd.conf" -p "$own/pid"
"""


@attrs.frozen(kw_only=True)
class Libvirt:
    """A running libvirtd of ours."""

    folder: Path

    def virsh(self, *words: str, check: bool = True) -> str:
        """Run virsh against it."""
        uri = f"qemu+unix:///system?socket={self.folder}/libvirt-sock"
        done = subprocess.run(
            ["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, check=False, timeout=120
        )
        if check:
            assert done.returncode == 0, done.stderr
        return done.stdout if done.returncode == 0 else done.stderr


@contextlib.contextmanager
def libvirtd(folder: Path) -> Iterator[Libvirt]:
    """Start a libvirtd and end it, with every domain that runs."""
    assert LIBVIRTD
    log = (folder / "log").open("wb")
    daemon = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", _SETUP, "sh", str(folder), LIBVIRTD],
        stdout=log,
        stderr=log,
        stdin=subprocess.DEVNULL,
    )
    ours = Libvirt(folder=folder)
    try:
        _wait(ours, daemon)
        yield ours
    finally:
        # a domain outlives the daemon
        for name in ours.virsh("list", "--name", check=False).split() if daemon.poll() is None else ():
            ours.virsh("destroy", name, check=False)
        daemon.terminate()
        daemon.wait(30)
        log.close()


def _wait(ours: Libvirt, daemon: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert daemon.poll() is None, (ours.folder / "log").read_text()
        if (ours.folder / "libvirt-sock").exists() and "hypervisor" in ours.virsh("version", check=False):
            return
        time.sleep(0.1)
    raise AssertionError((ours.folder / "log").read_text())
