"""From what each CPU is kept, and by whom."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvmaff.cpuset import CpuSet
from kvmaff.host import partitions
from kvmaff.host.isolation import Isolation, KeptFrom
from kvmaff.host.reader import read_host

from .files import V1_MOUNT, V2_MOUNT, machine

CPU = "sys/devices/system/cpu"
CGROUP = "sys/fs/cgroup"


def _isolation(root: Path, files: dict[str, str | bytes], online: str = "0-7") -> Isolation:
    return read_host(machine(root, online, files)).isolation


def _kept(isolation: Isolation) -> list[tuple[str, str, str]]:
    return [(str(one.cpus), one.what.name, one.by) for one in isolation.kept]


def test_nothing_is_kept_where_nobody_said_so(tmp_path: Path) -> None:
    """A machine without any of it has an empty answer, also where nohz_full reads "(null)"."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "\n",
        f"{CPU}/nohz_full": "                 (null)\n",
        "proc/cmdline": "quiet ro\n",
        "proc/irq/default_smp_affinity": "ff\n",
    }
    assert Isolation() == _isolation(tmp_path, files)


def test_the_kernel_is_believed_and_the_command_line_says_who_asked(tmp_path: Path) -> None:
    """Every aspect is told with the words of the command line that asked for it."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "4-5\n",
        f"{CPU}/nohz_full": "5\n",
        "proc/cmdline": "isolcpus=domain,managed_irq,4-5 nohz_full=5 rcu_nocbs=4 irqaffinity=0-1\n",
        "proc/irq/default_smp_affinity": "03\n",
    }
    isolation = _isolation(tmp_path, files)
    isolcpus = "isolcpus=domain,managed_irq,4-5"
    assert _kept(isolation) == [
        ("4-5", "BALANCING", isolcpus),
        ("5", "TICK", "nohz_full=5"),
        ("5", "RCU", "nohz_full=5"),
        ("4", "RCU", "rcu_nocbs=4"),
        ("4-5", "MANAGED_IRQ", isolcpus),
        ("2-7", "IRQ", "irqaffinity=0-1"),
    ]
    assert () == isolation.doubts
    assert CpuSet([4, 5]) == isolation.unbalanced
    assert [KeptFrom.BALANCING, KeptFrom.RCU, KeptFrom.MANAGED_IRQ, KeptFrom.IRQ] == [
        one.what for one in isolation.of(4)
    ]


def test_what_was_asked_in_vain_is_a_doubt(tmp_path: Path) -> None:
    """What the command line asks for and the kernel does not show is not believed, and said."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "4\n",
        "proc/cmdline": "isolcpus=4,5 nohz_full=5 irqaffinity=0\n",
        "proc/irq/default_smp_affinity": "0f\n",
    }
    isolation = _isolation(tmp_path, files)
    assert [("4", "BALANCING", "isolcpus=4,5"), ("4-7", "IRQ", "/proc/irq/default_smp_affinity")] == _kept(
        isolation
    )
    assert ["isolated does not have 5", "nohz_full does not have 5", "has 0-3 now"] == [
        part
        for doubt, part in zip(
            isolation.doubts,
            ("isolated does not have 5", "nohz_full does not have 5", "has 0-3 now"),
            strict=True,
        )
        if part in doubt
    ]


def test_a_kernel_that_isolates_unasked(tmp_path: Path) -> None:
    """CPUs that /sys isolates and no option names are the kernel's doing; the boot CPU gets interrupts unasked."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "6\n",
        "proc/cmdline": "irqaffinity=1-3\n",
        "proc/irq/default_smp_affinity": "0f\n",
    }
    isolation = _isolation(tmp_path, files)
    assert [("6", "BALANCING", f"the kernel (/{CPU}/isolated)"), ("4-7", "IRQ", "irqaffinity=1-3")] == _kept(
        isolation
    )
    assert () == isolation.doubts


def test_a_recording_without_the_file_is_taken_at_the_command_lines_word(tmp_path: Path) -> None:
    """Where /sys has no file of isolated CPUs, the command line is all there is."""
    isolation = _isolation(tmp_path, {"proc/cmdline": "isolcpus=2-3,9"})
    assert [("2-3", "BALANCING", "isolcpus=2-3,9")] == _kept(isolation)


def _partition(cpus: str, kind: str) -> dict[str, str | bytes]:
    return {"cpuset.cpus.effective": cpus, "cpuset.cpus.partition": kind}


def _below(folder: str, files: dict[str, str | bytes]) -> dict[str, str | bytes]:
    return {f"{CGROUP}/{folder}/{name}".replace("//", "/"): text for name, text in files.items()}


def test_cgroup_v2_partitions(tmp_path: Path) -> None:
    """Partitions are found in partitions; isolated ones are unbalanced, both exclusive; failed ones are doubts."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT,
        f"{CPU}/isolated": "1\n",
        "proc/cmdline": "isolcpus=1",
        **_below("", {"cpuset.cpus.effective": "0-1,3", "cpuset.cpus.isolated": "1,6-7"}),
        **_below("vm", _partition("4-5", "root")),
        **_below("vm/rt", _partition("6-7", "isolated")),
        **_below("bad", _partition("0-3", "isolated invalid (Cpu list in cpuset.cpus not exclusive)")),
        **_below("plain", _partition("0-3", "member")),
        **_below("two", _partition("2", "root")),
    }
    isolation = _isolation(tmp_path, files)
    assert sorted(_kept(isolation)) == [
        ("1", "BALANCING", "isolcpus=1"),
        ("2", "OUTSIDERS", "/sys/fs/cgroup/two"),
        ("4-5", "OUTSIDERS", "/sys/fs/cgroup/vm"),
        ("6-7", "BALANCING", "/sys/fs/cgroup/vm/rt"),
        ("6-7", "OUTSIDERS", "/sys/fs/cgroup/vm/rt"),
    ]
    assert ["not exclusive" in doubt and "/sys/fs/cgroup/bad" in doubt for doubt in isolation.doubts] == [
        True
    ]
    assert CpuSet([1, 6, 7]) == isolation.unbalanced


def test_a_remote_partition_is_found_where_the_root_has_lost_cpus(tmp_path: Path) -> None:
    """A partition below plain cgroups is looked for only because its CPUs are missing at the root."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT,
        **_below("", {"cpuset.cpus.effective": "0-5", "cpuset.cpus.isolated": "6-7"}),
        **_below("a", _partition("0-5", "member")),
        **_below("a/b", _partition("0-5", "member")),
        **_below("a/b/c", _partition("6-7", "isolated")),
    }
    assert [
        ("6-7", "BALANCING", "/sys/fs/cgroup/a/b/c"),
        ("6-7", "OUTSIDERS", "/sys/fs/cgroup/a/b/c"),
    ] == _kept(_isolation(tmp_path, files))


def test_isolated_partitions_that_cannot_be_seen_are_still_told(tmp_path: Path) -> None:
    """The root's own list of isolated CPUs is believed also where no cgroup that has them is readable."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT,
        **_below("", {"cpuset.cpus.effective": "0-5", "cpuset.cpus.isolated": "6-7"}),
    }
    assert CpuSet([6, 7]) == _isolation(tmp_path, files).unbalanced


def test_a_containers_root_accuses_nobody(tmp_path: Path) -> None:
    """A container sees a part of the hierarchy: CPUs missing there are not those of a partition."""
    mount = V2_MOUNT.replace(" / /sys", " /docker/1 /sys")
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": mount,
        **_below("", {"cpuset.cpus.effective": "0-3", "cpuset.cpus.partition": "member"}),
    }
    assert Isolation() == _isolation(tmp_path, files)


@pytest.mark.parametrize("prefix", ["cpuset.", ""])
def test_cgroup_v1_without_load_balancing(tmp_path: Path, prefix: str) -> None:
    """CPUs that no balanced v1 cpuset has are unbalanced; with and without the files' prefix."""
    folder = "sys/fs/cgroup/cpuset"
    files: dict[str, str | bytes] = {"proc/self/mountinfo": V1_MOUNT}
    for name, flag, cpus in (("", 0, "0-7"), ("/sys", 1, "0-2"), ("/vm", 0, "3-7"), ("/vm/shared", 1, "3")):
        files[f"{folder}{name}/{prefix}sched_load_balance"] = f"{flag}\n"
        files[f"{folder}{name}/{prefix}cpus"] = cpus
    assert [("4-7", "BALANCING", "/sys/fs/cgroup/cpuset (sched_load_balance 0)")] == _kept(
        _isolation(tmp_path, files)
    )
    (tmp_path / folder / f"{prefix}sched_load_balance").write_text("1\n")
    assert Isolation() == read_host(tmp_path).isolation


def test_an_option_that_the_kernel_rejects_whole(tmp_path: Path) -> None:
    """Where isolcpus= contradicts nohz_full=, its managed_irq is not believed either."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "\n",
        f"{CPU}/nohz_full": "2-7\n",
        "proc/cmdline": "nohz_full=2-7 isolcpus=nohz,domain,managed_irq,4-7",
    }
    isolation = _isolation(tmp_path, files)
    assert CpuSet() == isolation.kept_from(KeptFrom.MANAGED_IRQ)
    assert any("contradicts an earlier one" in doubt for doubt in isolation.doubts)


def test_the_cpu_that_booted_keeps_the_tick(tmp_path: Path) -> None:
    """nohz_full=all is no mistake, though the first CPU is not among them."""
    files: dict[str, str | bytes] = {
        f"{CPU}/isolated": "\n",
        f"{CPU}/nohz_full": "1-7\n",
        "proc/cmdline": "nohz_full=all",
    }
    assert () == _isolation(tmp_path, files).doubts


def test_partitions_where_they_usually_are(tmp_path: Path) -> None:
    """Below plain cgroups, at a container's root, and in a cgroup called like a controller's file."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT.replace(" / /sys", " /docker/1 /sys"),
        **_below("", {**_partition("0-5", "root"), "cgroup.subtree_control": "cpu cpuset"}),
        **_below("machine.slice/vm", _partition("0-3", "isolated invalid (Parent is not a partition root)")),
        **_below("cpu.vms", _partition("6-7", "isolated")),
        **_below("off", {"cgroup.subtree_control": "memory"}),
        **_below("off/x", _partition("4-5", "isolated")),
    }
    isolation = _isolation(tmp_path, files)
    assert sorted(_kept(isolation)) == [
        ("0-5", "OUTSIDERS", "/sys/fs/cgroup"),
        ("6-7", "BALANCING", "/sys/fs/cgroup/cpu.vms"),
        ("6-7", "OUTSIDERS", "/sys/fs/cgroup/cpu.vms"),
    ]
    assert ["machine.slice/vm" in doubt for doubt in isolation.doubts] == [True]


def test_more_cgroups_than_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the walk ends early, that is a doubt; mounts told twice are one."""
    monkeypatch.setattr(partitions, "_MOST", 3)
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT * 50,
        **_below("", {"cpuset.cpus.effective": "0-7"}),
    }
    for name in "abcdef":
        files |= _below(name, _partition("7" if name == "a" else "0", "root" if name == "a" else "member"))
    isolation = _isolation(tmp_path, files)
    assert [("7", "OUTSIDERS", "/sys/fs/cgroup/a")] == _kept(isolation)
    assert ["more cgroups" in doubt for doubt in isolation.doubts] == [True]


def test_offline_cpus_are_kept_from_nothing(tmp_path: Path) -> None:
    """What is said of CPUs that are not online is not repeated."""
    files: dict[str, str | bytes] = {f"{CPU}/isolated": "6-9\n", "proc/cmdline": "isolcpus=6-9 rcu_nocbs=9"}
    assert [("6-7", "BALANCING", "isolcpus=6-9")] == _kept(_isolation(tmp_path, files))


def test_a_stale_list_of_isolated_cpus(tmp_path: Path) -> None:
    """Linux 6.12 goes on listing CPUs of a partition that broke; the root has them, so the list is not believed."""
    files: dict[str, str | bytes] = {
        "proc/self/mountinfo": V2_MOUNT,
        **_below("", {"cpuset.cpus.effective": "0-7", "cpuset.cpus.isolated": "6-7"}),
        **_below("vm", _partition("6-7", "isolated invalid")),
    }
    isolation = _isolation(tmp_path, files)
    assert ((), 1) == (isolation.kept, len(isolation.doubts))
