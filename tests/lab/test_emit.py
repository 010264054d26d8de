"""A guest started as it was written, on a kernel with four nodes: its memory is where ``host-nodes`` says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import kvmaff
from kvmaff.guest.guest import Role

from ..conftest import QEMU, needs_qemu
from .machine import Machine, Node

FOUR = Machine(
    sockets=4,
    cores=2,
    threads=2,
    nodes=tuple(Node(cpus=f"{first}-{first + 3}") for first in range(0, 16, 4)),
    distances=((10, 14, 16, 50), (14, 10, 12, 40), (16, 12, 10, 44), (50, 40, 44, 10)),
)
SPEC = """
[[guest]]
name = "wide"
vcpus = 8
threads = 2
memory = "48 MiB"
policy = "dedicated"
[[guest.cell]]
vcpus = "0-3"
memory = "16 MiB"
[[guest.cell]]
vcpus = "4-7"
memory = "32 MiB"
"""
_MAPPED = re.compile(r" bind:(\S+) .*")
_PAGES = re.compile(r" N(\d+)=(\d+)")

pytestmark = [needs_qemu, pytest.mark.inside(FOUR, timeout=120)]


def kvmaff_json(*words: str) -> dict[str, object]:
    """What a command prints for programs."""
    done = subprocess.run(
        [sys.executable, "-m", "kvmaff", *words, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def bound(pid: int) -> dict[str, Counter[int]]:
    """For each node list that memory is bound to, how many pages of it are on each node."""
    found: dict[str, Counter[int]] = {}
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        policy = _MAPPED.search(line)
        if policy:
            pages = Counter({int(node): int(count) for node, count in _PAGES.findall(line)})
            found.setdefault(policy[1], Counter()).update(pages)
    return found


def test_memory_lies_where_host_nodes_says(tmp_path: Path) -> None:
    """Two cells on two nodes, made before the guest runs; then it is bound as it was decided."""
    spec, state = tmp_path / "wide.toml", tmp_path / "state"
    spec.write_text(SPEC)
    kvmaff_json("apply", "--spec", str(spec), "--strategy", "numa", "--state-dir", str(state))
    said = kvmaff_json(
        *("emit", "qemu", "wide", "--state-dir", str(state), "--accel", "tcg", "--cpu", "max", "--prealloc")
    )
    words = [str(word) for word in said["arguments"]]  # type: ignore[attr-defined]
    nodes = [re.search(r"host-nodes=(\d+)", word) for word in words if "memory-backend" in word]
    homes = [int(node[1]) for node in nodes if node]
    assert 2 == len(set(homes))
    assert f"dist,src=0,dst=1,val={FOUR.distances[homes[0]][homes[1]]}" in words
    process = subprocess.Popen(
        [QEMU, *words, "-S", "-nodefaults", "-display", "none"], stdin=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 60
        pages = bound(process.pid)
        while sum(map(Counter.total, pages.values())) < 48 << 8 and time.monotonic() < end:
            assert process.poll() is None
            time.sleep(0.2)
            pages = bound(process.pid)
        assert {str(homes[0]): {homes[0]: 16 << 8}, str(homes[1]): {homes[1]: 32 << 8}} == {
            node: dict(counts) for node, counts in pages.items()
        }
        host = kvmaff.read_host()
        while not any(guest.name == "wide" and len(guest.vcpus) == 8 for guest in kvmaff.guests(host)):
            assert time.monotonic() < end
            time.sleep(0.2)
        kvmaff_json("apply", "--state-dir", str(state))
        (guest,) = [guest for guest in kvmaff.guests(host) if guest.name == "wide"]
        near = {node.number: node.cpus for node in host.topology.nodes}
        for thread in guest.threads:
            if thread.role is Role.VCPU:
                assert thread.index is not None
                assert thread.mask
                assert thread.mask <= near[homes[thread.index // 4]]
    finally:
        process.kill()
        process.wait()
