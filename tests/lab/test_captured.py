"""
Machines of the lab in files: what is captured in a machine says outside what the machine itself says.

One program says what kvmaff knows and decides. It runs in the machine, on the running kernel, and here, on the file.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from .environment import CHECKOUT, interpreter
from .lab import Lab
from .machine import Machine
from .test_isolation import BOOTS
from .test_topology import MACHINES

_SAY = """
import json, os
import kvmaff
from kvmaff.errors import PlacementImpossible
from kvmaff.formats.plain import guests_data, placement_data, topology_data
from kvmaff.guest.memory import memory_by_node

def some(host):
    present = list(host.topology.present)
    return {present[0], present[len(present) // 2], present[-1]}

def said(root, state):
    host = kvmaff.read_host(root)
    guests = kvmaff.guests(host)
    grants = [kvmaff.granted(host, guest.pid) for guest in guests]
    told = {
        "topology": topology_data(host),
        "guests": guests_data(guests),
        "memory": [[node for node, size in memory_by_node(guest.pid, host.root) if size >> 23] for guest in guests],
        "grants": [[grant.cgroup, str(grant.cpus), grant.nodes, str(grant.above)] for grant in grants],
        "why_not": [[kvmaff.why_not(host, cpu, guest.pid) for cpu in some(host)] for guest in guests],
        "placed": {},
    }
    for guest in told["guests"]:
        for thread in guest["threads"]:
            del thread["cpu"]  # where it ran last
    for strategy in ("numa", "pack", "spread", "isolated"):
        try:
            placed, left = kvmaff.place(host, guests, strategy, state_dir=state), ()
        except PlacementImpossible as error:
            placed, left = error.placement, error.unplaced
        told["placed"][strategy] = placement_data(placed, left, strategy)
    return told
"""

# Two guests: one whose memory is on the last node that has any, one in a cgroup of half of the CPUs; and a partition
# where that is asked: it changes the masks of everything that runs
_CAPTURE = """
import signal
import sys
from pathlib import Path
from tests.lab import tiny
from tests.lab.guests import running

folder = Path(sys.argv[1])
node = [node.number for node in kvmaff.read_host().topology.nodes if node.memory_bytes][-1]
online = sorted(os.sched_getaffinity(1))
half, rest = online[: len(online) // 2], online[len(online) // 2 :]
groups = []
for name, cpus, kind in (("half", half, "member"), ("quiet", rest[1:], sys.argv[2])):
    if cpus:
        groups.append(Path("/sys/fs/cgroup", name))
        groups[-1].mkdir()
        (groups[-1] / "cpuset.cpus").write_text(",".join(map(str, cpus)))
        (groups[-1] / "cpuset.cpus.partition").write_text(kind)
temporary = Path(os.environ["TMPDIR"])
try:
    with (
        running(tiny.TICK, temporary, "bound", node=node, memory=16) as one,
        running(tiny.TICK, temporary, "half", vcpus=1) as two,
    ):
        if half:
            (groups[0] / "cgroup.procs").write_text(str(two))
        os.sched_setaffinity(one, online[:1])
        for pid in (one, two):
            os.kill(pid, signal.SIGSTOP)  # so that their memory stays as it is
        kvmaff.capture(folder / "host.tar.xz")
        print(json.dumps(said("/", str(temporary / "state"))))
finally:
    for group in groups:
        (group / "cpuset.cpus.partition").write_text("member")
        group.rmdir()
"""
OF_ALL_SHAPES = {name: (machine, "member") for name, machine in MACHINES.items() if name != "4x4-6.12"}
PARTED = {f"parted-{name}": (BOOTS[name][0], "isolated") for name in ("6.1", "6.12")}
_BY_NAME = [
    pytest.param(machine, kind, id=name, marks=pytest.mark.lab(machine))
    for name, (machine, kind) in {**OF_ALL_SHAPES, **PARTED}.items()
]


@pytest.mark.parametrize(("machine", "kind"), _BY_NAME)
def test_captured(lab: Lab, machine: Machine, kind: str) -> None:
    """Topology, isolation, guests, grants, reasons and a placement by each strategy are the same here as there."""
    program = ("-c", _SAY + _CAPTURE, str(lab.folder), kind)
    there = lab.run("python3", *program, check=True, timeout=120, env={"PYTHONPATH": str(CHECKOUT)})
    here = subprocess.run(
        [interpreter(), "-c", f"{_SAY}print(json.dumps(said({str(lab.folder / 'host.tar.xz')!r}, None)))"],
        capture_output=True,
        text=True,
        check=True,
        cwd=CHECKOUT,
    )
    expected: dict[str, Any] = json.loads(there.stdout)
    found = json.loads(here.stdout)
    assert expected == found
    assert ["bound", "half"] == [guest["name"] for guest in found["guests"]]
    assert all(guest["verified"] for guest in found["guests"])
    (last,) = [number for number, node in enumerate(machine.nodes) if node.memory][-1:]
    assert last in found["memory"][0]
    assert (kind == "isolated") == any("/quiet" in one["by"] for one in found["topology"]["isolation"])
    assert all(one["guests"] or one["unplaced"] for one in found["placed"].values())
