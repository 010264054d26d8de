"""
A VMM process of our own: real KVM vCPU threads with real guest time, and no QEMU needed.

Two sides are in this file. :class:`Microvm` is the parent's: it starts the process, talks to it and ends it.
:func:`main` is the process itself (``python -m kvmaff.testing.microvm``), a thin hand on ``ext/microvm.c``.

* Its ``-name`` is written and its threads are named as QEMU does it. Where KVM is missing plain threads
  stand in; they are called ``CPU n/TCG``, and :attr:`Microvm.why` says why they are not KVM.
* It outlives nobody. The end of its standard input is its end, and the kernel sends that however the parent
  dies; as a process that was forked meanwhile may hold the same pipe, it also looks twice a second whether
  its parent is still the one it had. PR_SET_PDEATHSIG would be wrong: it fires when the *thread* ends that
  started it.
* Ctrl-C goes to every process of a terminal. This one ignores it, from before its first instruction: what
  is to happen then is its parent's to decide.
"""

from __future__ import annotations

import argparse
import enum
import json
import os
import re
import select
import signal
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from kvmaff.errors import MicrovmError
from kvmaff.kernel.interrupt import InterruptLater
from kvmaff.testing._child import Child
from kvmaff.testing._microvm import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

__all__ = ["Microvm", "Mode", "main"]

_MODULE = "kvmaff.testing.microvm"
_IOTHREAD_ID = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")  # what QEMU takes as an id
_IOTHREAD_ID_BYTES = lib.MICROVM_NAME_BYTES - 1 - len("IO ")
_PARENT_CHECK_MS = 500
_MODE_WAIT_MS = 5000


class Mode(enum.Enum):
    """
    What a vCPU does with its time.

    Without KVM the same words mean a busy loop, sleep, and cheap system calls.
    """

    SPIN = "spin"
    """It executes guest code and nothing else: guest time grows."""

    HALT = "halt"
    """It halts, and its thread sleeps: next to no time."""

    EXIT = "exit"
    """It leaves the guest all the time: the time is the kernel's."""


_NUMBERS = {Mode.SPIN: lib.MICROVM_SPIN, Mode.HALT: lib.MICROVM_HALT, Mode.EXIT: lib.MICROVM_EXIT}


class Microvm:
    """
    A running microvm, seen from the process that started it. Start one with :meth:`start`.

    A context manager, whose end is :meth:`close`. For one thread at a time.

    Attributes:
        name: The guest's name.
        pid: The process; its main thread is the emulator thread.
        kvm: Whether the vCPUs are KVM's.
        why: Why they are not, as in ``not KVM: /dev/kvm: No such file or directory``; None where they are.
        vcpu_tids: The thread of each vCPU.
        iothread_tids: The thread of each IOThread, by id.
    """

    name: str
    pid: int
    kvm: bool
    why: str | None
    vcpu_tids: tuple[int, ...]
    iothread_tids: Mapping[str, int]

    def __init__(self, name: str, child: Child, facts: dict[str, Any]) -> None:
        self.name = name
        self.pid = facts["pid"]
        self.kvm = facts["kvm"]
        self.why = facts["why"]
        self.vcpu_tids = tuple(facts["vcpus"])
        self.iothread_tids = MappingProxyType(facts["iothreads"])
        self._child = child

    @classmethod
    def start(
        cls,
        name: str = "microvm",
        *,
        vcpus: int = 1,
        mode: Mode = Mode.SPIN,
        iothreads: Iterable[str] = (),
        kvm: str | os.PathLike[str] = "/dev/kvm",
        timeout: float = 10.0,
    ) -> Microvm:
        """
        Start a microvm and wait until all its threads are up and named.

        Args:
            name: The guest's name, printable and without a comma.
            vcpus: How many vCPUs, 1 to 256.
            mode: What they do.
            iothreads: Ids of threads that sleep and are named ``IO <id>``; at most 12 bytes each, as QEMU
                gives a thread no name that does not fit in 15.
            kvm: The device; where it cannot be used plain threads stand in.
            timeout: Seconds to wait for an answer, now and at each :meth:`mode`.

        Returns:
            The running microvm.

        Raises:
            ValueError: An argument makes no sense; nothing was started.
            MicrovmError: It did not start, or not in time; nothing is left of it.
        """
        ids = tuple(iothreads)
        _check(name, vcpus, ids)
        arguments = ["-name", f"guest={name},debug-threads=on", f"--vcpus={vcpus:d}"]
        arguments += [f"--mode={Mode(mode).value}", f"--kvm={os.fspath(kvm)}", f"--parent={os.getpid()}"]
        arguments += [f"--iothread={one}" for one in ids]
        interrupt = InterruptLater()  # while there is a child that nobody would end
        try:
            child = Child(f"microvm {name!r}", _MODULE, arguments, timeout)
            try:
                interrupt.now()
                return cls(name, child, _facts(child))
            except BaseException:
                child.end(kill=True)
                raise
        finally:
            interrupt.now()

    def mode(self, mode: Mode, vcpu: int | None = None) -> None:
        """
        Give one vCPU or all another mode; it is in effect on return.

        Args:
            mode: What to do from now on.
            vcpu: Which vCPU; all where it is None.

        Raises:
            ValueError: There is no such mode or vCPU.
            MicrovmError: The microvm has ended, or did not do it.
        """
        words = ["mode", Mode(mode).value]
        if vcpu is not None:
            if vcpu not in range(len(self.vcpu_tids)):
                raise ValueError(f"microvm {self.name!r} has no vCPU {vcpu!r}")
            words.append(str(vcpu))
        self._child.tell(" ".join(words))
        answer = self._child.hear()
        if answer != "ok":
            raise MicrovmError(f"microvm {self.name!r}: {answer}")

    def close(self) -> None:
        """
        End the process and wait for it; killed where it does not end by itself. Again is harmless.

        Raises:
            MicrovmError: It cannot even be killed.
        """
        self._child.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Microvm {self.name!r}, pid {self.pid}, {self.why or 'KVM'}>"


def _facts(child: Child) -> dict[str, Any]:
    """Return what the process says about itself when it is up."""
    line = child.hear()
    try:
        facts: dict[str, Any] = json.loads(line)
    except ValueError:
        raise child.failed(f"is not itself, it says {line!r}", kill=True) from None
    return facts


def _check(name: str, vcpus: int, iothreads: tuple[str, ...]) -> None:
    """Raise ValueError where QEMU would not have it so, or would name the threads otherwise."""
    if not name or not name.isprintable() or "," in name:
        raise ValueError(f"a guest's name is printable and has no comma, unlike {name!r}")
    if vcpus not in range(1, lib.MICROVM_MAX_VCPUS + 1):
        raise ValueError(f"a microvm has 1 to {lib.MICROVM_MAX_VCPUS} vCPUs, not {vcpus!r}")
    if len(iothreads) > lib.MICROVM_MAX_IOTHREADS:
        raise ValueError(f"a microvm has at most {lib.MICROVM_MAX_IOTHREADS} IOThreads")
    for one in iothreads:
        if not _IOTHREAD_ID.fullmatch(one) or len(one) > _IOTHREAD_ID_BYTES:
            raise ValueError(
                f"an IOThread's id is a letter and at most {_IOTHREAD_ID_BYTES - 1} letters, digits, "
                f"'.', '_' or '-' after it, not {one!r}"
            )
    if len(set(iothreads)) != len(iothreads):
        raise ValueError(f"IOThreads have different ids, unlike {', '.join(iothreads)}")


# -- the process itself

_STEPS = {
    lib.MICROVM_STEP_ARGUMENTS: "the arguments",
    lib.MICROVM_STEP_MACHINE: "no x86-64 machine",
    lib.MICROVM_STEP_OPEN: "",
    lib.MICROVM_STEP_GET_API_VERSION: "KVM_GET_API_VERSION",
    lib.MICROVM_STEP_IMMEDIATE_EXIT: "KVM_CAP_IMMEDIATE_EXIT",
    lib.MICROVM_STEP_CREATE_VM: "KVM_CREATE_VM",
    lib.MICROVM_STEP_SET_TSS_ADDR: "KVM_SET_TSS_ADDR",
    lib.MICROVM_STEP_GUEST_MEMORY: "the guest's memory",
    lib.MICROVM_STEP_SET_MEMORY: "KVM_SET_USER_MEMORY_REGION",
    lib.MICROVM_STEP_THREAD: "a thread",
    lib.MICROVM_STEP_CREATE_VCPU: "KVM_CREATE_VCPU",
    lib.MICROVM_STEP_MAP_VCPU: "the vCPU's shared page",
    lib.MICROVM_STEP_REGISTERS: "the vCPU's registers",
    lib.MICROVM_STEP_RUN: "KVM_RUN",
    lib.MICROVM_STEP_MODE: "the new mode",
}


def _words(failed: Any) -> str:
    """Return what a struct microvm_failure says."""
    where = _STEPS[failed.step]
    if failed.vcpu >= 0:
        where += f" of vCPU {failed.vcpu}"
    if failed.error:
        what = os.strerror(failed.error)
    elif failed.step == lib.MICROVM_STEP_RUN:
        what = f"the guest stopped, exit reason {failed.exit_reason}"
    else:
        what = "not what was expected"
    return f"{where}: {what}" if where else what


class _Vm:
    """The machine of this process."""

    def __init__(self, options: argparse.Namespace, kvm: str | None) -> None:
        count = options.vcpus + len(options.iothread)
        size = lib.microvm_bytes(options.vcpus, len(options.iothread))
        self._failed = ffi.new("struct microvm_failure *")
        self._memory = ffi.new("uint64_t[]", size // 8 + 1)
        tids = ffi.new("int32_t[]", count)
        ids = [ffi.new("char[]", one.encode()) for one in options.iothread]
        array = ffi.new("char *[]", ids)
        path = ffi.NULL if kvm is None else ffi.new("char[]", os.fsencode(kvm))
        plan = ffi.new(
            "struct microvm_plan *",
            {
                "kvm": path,
                "iothreads": array,
                "n_iothreads": len(ids),
                "n_vcpus": options.vcpus,
                "mode": _NUMBERS[Mode(options.mode)],
                "named": options.named,
            },
        )
        if lib.microvm_start(self._memory, size, plan, tids, self._failed) < 0:
            raise MicrovmError(_words(self._failed))
        self.vcpus = list(tids)[: options.vcpus]
        self.iothreads = dict(zip(options.iothread, list(tids)[options.vcpus :], strict=True))

    def obey(self, line: str) -> str:
        """Carry out a line, and answer it."""
        vcpu = -1
        match line.split():
            case ["mode", "spin" | "halt" | "exit" as word]:
                pass
            case ["mode", "spin" | "halt" | "exit" as word, number]:
                if number not in map(str, range(len(self.vcpus))):
                    return f"error there is no vCPU {number}"
                vcpu = int(number)
            case _:
                return "error a line is: mode spin|halt|exit [VCPU], or: quit"
        mode = _NUMBERS[Mode(word)]
        if lib.microvm_mode(self._memory, mode, vcpu, _MODE_WAIT_MS, self._failed) < 0:
            return f"error {_words(self._failed)}"
        return "ok"

    def stopped(self) -> str | None:
        """Return what is wrong with a vCPU that could not go on, or None."""
        return _words(self._failed) if lib.microvm_stopped(self._memory, self._failed) else None

    def stop(self) -> None:
        """End all threads."""
        lib.microvm_stop(self._memory)


def _named(text: str) -> tuple[str, bool]:
    """Parse the value of ``-name``, as QEMU has it: the guest's name, and whether threads are named."""
    words = {"guest": "", "debug-threads": "on"}
    for number, part in enumerate(text.split(",")):
        key, equals, value = part.partition("=")
        if not equals and number == 0:
            key, value = "guest", part
        if key not in words:
            raise argparse.ArgumentTypeError(f"{part!r} is neither guest= nor debug-threads=")
        words[key] = value
    if words["debug-threads"] not in ("on", "off"):
        raise argparse.ArgumentTypeError("debug-threads= takes on or off")
    return words["guest"], words["debug-threads"] == "on"


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse and check the command line; where it is wrong, say so and exit."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {_MODULE}",
        allow_abbrev=False,
        description="Run vCPU threads without a guest system, until standard input ends.",
    )
    parser.add_argument("-name", required=True, type=_named, metavar="NAME[,debug-threads=on|off]")
    parser.add_argument("--vcpus", type=int, default=1, metavar="N")
    parser.add_argument("--mode", choices=[mode.value for mode in Mode], default=Mode.SPIN.value)
    parser.add_argument("--iothread", action="append", default=[], metavar="ID")
    parser.add_argument("--kvm", default="/dev/kvm", metavar="PATH")
    parser.add_argument("--parent", type=int, default=os.getppid(), metavar="PID", help="end with it")
    options = parser.parse_args(argv)
    name, options.named = options.name
    try:
        _check(name, options.vcpus, tuple(options.iothread))
    except ValueError as error:
        parser.error(str(error))
    return options


def _serve(vm: _Vm, parent: int) -> None:
    """Obey the lines of standard input until it ends or the parent does."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    pending = b""
    while os.getppid() == parent:
        wrong = vm.stopped()
        if wrong:
            raise MicrovmError(wrong)
        if not poll.poll(_PARENT_CHECK_MS):
            continue
        chunk = os.read(0, 4096)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            if line.strip() == b"quit":
                return
            _say(vm.obey(line.decode(errors="replace")))


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def main(argv: Sequence[str] | None = None) -> int:
    """
    Be the microvm's process.

    Args:
        argv: The command line without the program; that of this process where it is None.

    Returns:
        The exit status.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    options = _options(argv)
    why = None
    try:
        try:
            vm = _Vm(options, options.kvm)
        except MicrovmError as error:
            why = f"not KVM: {options.kvm}: {error}"
            vm = _Vm(options, None)
        try:
            facts = {"kvm": why is None, "why": why, "pid": os.getpid()}
            _say(json.dumps({**facts, "vcpus": vm.vcpus, "iothreads": vm.iothreads}))
            _serve(vm, options.parent)
        finally:
            vm.stop()
    except BrokenPipeError:
        pass  # nobody listens any more
    except MicrovmError as error:
        print(error, file=sys.stderr)  # noqa: T201 - this process talks by its standard streams
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
