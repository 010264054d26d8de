"""What a booted machine does for those who use it, and what is left of it: nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .environment import CHECKOUT
from .errors import BootFailed, CommandFailed, CommandTimeout, LabUnavailable, MachineDied
from .lab import Lab
from .machine import Machine

SMALL = Machine.parse("2x2")
small = pytest.mark.lab(SMALL)


@small
def test_streams_and_code(lab: Lab) -> None:
    """Standard output and error stay apart, byte by byte, and the exit code is the command's."""
    done = lab.run("sh", "-c", "echo out; echo err >&2; exit 200")
    assert (200, "out\n", "err\n") == (done.code, done.stdout, done.stderr)
    assert -signal.SIGTERM == lab.run("sh", "-c", "kill -TERM $$").code
    assert 0 == lab.run("true").code


@small
def test_no_such_program(lab: Lab) -> None:
    """A program or a folder that is not there is said to be missing."""
    done = lab.run("/no/such", "word")
    assert (127, "/no/such: No such file or directory\n") == (done.code, done.stderr)
    done = lab.run("true", cwd="/no/folder")
    assert (127, "/no/folder: No such file or directory\n") == (done.code, done.stderr)


@small
def test_much(lab: Lab) -> None:
    """Megabytes on both streams come through, whole and in order."""
    script = "import sys; [print(n, file=sys.stderr if n % 2 else sys.stdout) for n in range(60000)]"
    done = lab.run("python3", "-c", script, check=True)
    assert list(range(0, 60000, 2)) == list(map(int, done.stdout.split()))
    assert list(range(1, 60000, 2)) == list(map(int, done.stderr.split()))


@small
def test_environment(lab: Lab) -> None:
    """Commands run as root, in this checkout's environment and the current folder; a test may say otherwise."""
    done = lab.run("sh", "-c", "id -u; pwd; command -v kvmaff; echo $EXTRA", env={"EXTRA": "x"}, check=True)
    uid, folder, program, extra = done.stdout.splitlines()
    assert ("0", os.getcwd(), "x") == (uid, folder, extra)
    assert Path(program).samefile(Path(sys.prefix, "bin/kvmaff"))
    assert "/proc\n" == lab.run("pwd", cwd="/proc").stdout


@small
def test_standard_input(lab: Lab) -> None:
    """A command reads what it is given, and nothing where it is given nothing."""
    assert "1\n2\0é" == lab.run("cat", stdin="1\n2\0é".encode()).stdout
    assert "" == lab.run("cat").stdout


@small
def test_files_come_back(lab: Lab) -> None:
    """One folder has the same path on both sides, and is written by both."""
    (lab.folder / "to").write_text("there")
    done = lab.run("sh", "-c", "cat to; mkdir new; echo back >new/file", cwd=lab.folder, check=True)
    assert "there" == done.stdout
    assert "back\n" == (lab.folder / "new/file").read_text()


@small
def test_the_host_stays_as_it_is(lab: Lab, tmp_path: Path) -> None:
    """What else is written stays in the machine's memory; its own journal and temporary folder are empty."""
    (tmp_path / "file").write_text("as it was")
    script = f"echo changed >{tmp_path}/file; cat {tmp_path}/file; rm -r {CHECKOUT}/README.md {tmp_path}"
    assert "changed\n" == lab.run("sh", "-c", script, check=True).stdout
    assert "as it was" == (tmp_path / "file").read_text()
    assert (CHECKOUT / "README.md").exists()
    listing = lab.run(
        "sh", "-c", "ls -A /var/lib/kvmaff $HOME; touch /var/lib/kvmaff/x && mktemp", check=True
    )
    *folders, temporary = listing.stdout.split()
    assert ["/run/home:", "/var/lib/kvmaff:"] == sorted(folders)
    assert temporary.startswith("/run/tmp/")


@small
def test_cgroup_v2(lab: Lab) -> None:
    """Cgroups are version 2, with the controllers that systemd hands on."""
    script = "cd /sys/fs/cgroup && mkdir one && echo 2-3 >one/cpuset.cpus && cat one/cpuset.cpus.effective && rmdir one"
    assert "2-3\n" == lab.run("sh", "-c", script, check=True).stdout


@small
def test_clock(lab: Lab) -> None:
    """A second in the machine is one outside, so that what ps says of CPU time is true."""
    script = (
        "import time; print(time.monotonic(), flush=True); time.sleep(3); print(time.monotonic(), flush=True)"
    )
    seen: list[float] = []
    job = lab.start("python3", "-c", script, stdout=lambda _: seen.append(time.monotonic()))
    assert 0 == job.wait().code
    assert 3.0 == pytest.approx(seen[-1] - seen[0], abs=1.5)


@small
def test_a_failed_command_says_all(lab: Lab) -> None:
    """Where a command has to end well and does not, the error has its words, its code and what it said."""
    with pytest.raises(CommandFailed) as caught:
        lab.run("sh", "-c", "echo said; echo why >&2; exit 3", check=True)
    for words in ("command 'sh -c echo said", "ended with 3", "--- stdout\nsaid", "--- stderr\nwhy"):
        assert words in str(caught.value)


@small
def test_too_long(lab: Lab) -> None:
    """A late command is killed with all that it started, what it said is shown, and the machine goes on."""
    with pytest.raises(CommandTimeout, match="took longer than 2 s and was killed\n--- stdout\nsaid"):
        lab.run("sh", "-c", "(trap '' TERM HUP INT; sleep 1234) & echo said; sleep 1234", timeout=2)
    assert 1 == lab.run("pgrep", "-f", "^sleep 1234").code


@small
def test_a_daemon_stays(lab: Lab) -> None:
    """What a command leaves behind goes on, and does not keep it from ending."""
    done = lab.run("sh", "-c", "sleep 4321 & echo $!", check=True)
    assert done.seconds < 30
    assert 0 == lab.run("kill", done.stdout.strip()).code


@small
def test_several_at_once(lab: Lab) -> None:
    """Commands run side by side."""
    jobs = [lab.start("sh", "-c", f"sleep {3 - n}; echo {n}") for n in range(3)]
    assert ["0\n", "1\n", "2\n"] == [job.wait().stdout for job in jobs]


@small
def test_quiet(lab: Lab) -> None:
    """Nothing but the kernel's own warnings is on the console of a machine that works."""
    assert "lab:" not in lab.console(10000)


# -- machines of their own

_OWNER = f"""
import sys, time
sys.path.insert(0, {str(CHECKOUT)!r})
from tests.lab import Lab, Machine
with Lab.boot(Machine()) as lab:
    print(lab.folder.parent, flush=True)
    lab.run("sleep", "600", timeout=None)
"""


def _of_qemu(folder: str) -> list[int]:
    """Return the processes that have a machine's folder in their command line."""
    found = []
    for one in Path("/proc").iterdir():
        if one.name.isdecimal():
            try:
                found += [int(one.name)] if folder.encode() in (one / "cmdline").read_bytes() else []
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_the_owner_ends(
    bootable: None, how: signal.Signals, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However the process ends that booted a machine, its QEMU ends; its folder goes at once or with the next boot."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with subprocess.Popen(
        [sys.executable, "-c", _OWNER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as owner:
        assert owner.stdout is not None
        folder = owner.stdout.readline().decode().strip()
        assert 2 == len(_of_qemu(folder)), "QEMU and its keeper"
        owner.send_signal(how)
        try:
            owner.wait(30)
        finally:
            owner.kill()
    deadline = time.monotonic() + 10
    while _of_qemu(folder):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (how != signal.SIGINT) == Path(folder).exists()
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(BootFailed):
        Lab.boot(Machine(), timeout=0.1)
    assert [] == list(tmp_path.iterdir())
    monkeypatch.undo()


def test_panic(bootable: None) -> None:
    """A machine that panics is an error at once, with the console's end, and so is every later command."""
    with Lab.boot(Machine()) as lab:
        start = time.monotonic()
        with pytest.raises(
            MachineDied, match=r"(?s)it ended.*--- console.*Kernel panic - not syncing: sysrq"
        ):
            lab.run("sh", "-c", "echo c >/proc/sysrq-trigger")
        assert time.monotonic() - start < 30
        assert not lab.alive
        with pytest.raises(MachineDied, match="Kernel panic"):
            lab.run("true")
        lab.close()
    assert not lab.folder.parent.exists()


def test_hung(bootable: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not even kill is ended."""
    monkeypatch.setattr("tests.lab.job.KILL_SECONDS", 1.0)
    with Lab.boot(Machine()) as lab:
        words = {one: Path(f"/proc/{one}/cmdline").read_text() for one in _of_qemu(str(lab.folder))}
        (qemu,) = [one for one in words if "keeper.py" not in words[one]]
        job = lab.start("sleep", "600")
        os.kill(qemu, signal.SIGSTOP)
        with pytest.raises(MachineDied, match="does not answer any more, while command 'sleep 600' runs"):
            job.wait(1)
        assert [] == _of_qemu(str(lab.folder))


def test_closed(bootable: None) -> None:
    """There is nothing to be had from a machine that was closed."""
    with Lab.boot(Machine()) as lab:
        assert lab.alive
    with pytest.raises(MachineDied, match="it was closed"):
        lab.run("true")


def test_refused_by_qemu(bootable: None) -> None:
    """What QEMU itself refuses is said in its words."""
    with pytest.raises(BootFailed, match="unable to find CPU model 'Nosuch'"):
        Lab.boot(Machine(cpu="Nosuch"))


def test_too_slow(bootable: None) -> None:
    """A boot that takes too long is ended."""
    with pytest.raises(BootFailed, match=r"not up within 0\.5 s"):
        Lab.boot(Machine(), timeout=0.5)


@pytest.mark.parametrize(
    ("machine", "message"),
    [("aarch64", "on x86-64, not on aarch64"), ("x86_64", "qemu-system-x86_64 is not installed")],
)
def test_not_here(monkeypatch: pytest.MonkeyPatch, machine: str, message: str) -> None:
    """Where the lab cannot be, it says why."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(LabUnavailable, match=message):
        Lab.boot(Machine())
