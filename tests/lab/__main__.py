"""``python -m tests.lab``: run a command on a machine that nobody owns."""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from .errors import LabError, MachineDied
from .lab import Lab
from .machine import KERNELS, Machine

_PROG = "python -m tests.lab"
_LONGEST = 10**7  # seconds: what the system can still wait for
_EXAMPLES = f"""\
examples:
  {_PROG} --topo 4x4 --append isolcpus=4,5 -- kvmaff demo
  {_PROG} --topo 2x8 --kernel 6.12 -- kvmaff topology
  {_PROG} --topo 8 --offline 3 --present 6 -- sh -c 'lscpu -e; cat /proc/cmdline'

The command runs as root on this machine's own files, which it can read and not change: what it writes is in memory
and gone with the machine. Its exit code is handed on; 1 also stands for a machine that does not boot, 2 for wrong
usage, 124 for a command that took too long.
"""


class _Wrong(Exception):
    """The command line makes no sense."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:  # so that a machine's own checks end alike
        raise _Wrong(message)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= _LONGEST:  # nan is neither
        raise argparse.ArgumentTypeError(f"a number of seconds above 0 and up to {_LONGEST}, not {text!r}")
    return seconds


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=_PROG,
        usage=f"{_PROG} [options] -- COMMAND [ARGUMENT...]",
        description="Boot a machine in QEMU, run a command on it, end it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--topo",
        default="4x4",
        metavar="SHAPE",
        help="4x4: four NUMA nodes of four CPUs, distances 10/12/32 (default); 8: one node of eight CPUs",
    )
    parser.add_argument("--kernel", default=KERNELS[0], metavar="SERIES", help="6.1 (default) or 6.12")
    parser.add_argument(
        "--append", action="append", default=[], metavar="WORDS", help="add to the kernel command line"
    )
    parser.add_argument(
        "--memory", type=int, metavar="MIB", help="of each node (default: 512; of a single one: 1024)"
    )
    parser.add_argument("--present", type=int, metavar="N", help="CPUs plugged in; the others could be")
    parser.add_argument("--offline", default="", metavar="CPULIST", help="CPUs to switch off")
    parser.add_argument(
        "--timeout", type=_seconds, metavar="SECONDS", help="time for the command (default: no limit)"
    )
    parser.add_argument(
        "--boot-timeout", type=_seconds, metavar="SECONDS", help="time for the boot (default: by CPUs)"
    )
    parser.add_argument("--console", action="store_true", help="show what the kernel said, at the end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """
    Boot, run, end.

    Args:
        argv: The command line without the program; that of this process where it is None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    command = words[cut + 1 :]
    try:
        options = _parser().parse_args(words[:cut])
        if not command:
            raise _Wrong("no command; it stands behind --")
        machine = Machine.parse(
            options.topo,
            memory=options.memory,
            kernel=options.kernel,
            append=" ".join(options.append),
            present=options.present,
            offline=options.offline,
        )
    except (_Wrong, ValueError) as error:
        _say(f"{error}\ntry {_PROG} --help")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        return _run(machine, command, options)
    except TimeoutError as error:
        _say(str(error))
        return 124
    except LabError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # nobody reads any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk behind standard output, or none
        _say(f"what the command says cannot be passed on: {error.strerror}")
        return 1


def _run(machine: Machine, command: Sequence[str], options: argparse.Namespace) -> int:
    with Lab.boot(machine, timeout=options.boot_timeout) as lab:
        _say(f"{machine}: {lab.release} is up after {lab.seconds:.1f} s")
        columns, lines = shutil.get_terminal_size()
        job = lab.start(
            *command, stdout=_writer(1), stderr=_writer(2), env={"COLUMNS": str(columns), "LINES": str(lines)}
        )
        try:
            code = job.wait(options.timeout).code
        except MachineDied as error:
            raise MachineDied(f"while the command ran: {error}") from None
        finally:
            if options.console:
                _say(lab.console(10000))
    return code if code >= 0 else 128 - code


def _writer(stream: int) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(stream, left) :]

    return write


def _say(text: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"lab: {text}\n")
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
