"""``kvmaff pin``: bind threads, on record."""

from __future__ import annotations

import re
from collections.abc import Callable

import click

from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import is_key, pin_guest, pin_process
from kvmaff.binding.report import Report
from kvmaff.cli.common import finish_binding, json_option, state_option
from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.guest.discover import find_guests
from kvmaff.guest.select import select_guest
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host

__all__ = ["pin"]

_PROCESS = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}))?")


@click.command()
@click.argument("words", nargs=-1, metavar="[GUEST KEY=CPULIST...] | [CPULIST]")
@click.option(
    "--pid",
    "process",
    metavar="PID[:TID]",
    help="Bind any process on purpose, guest or not: all its threads, or one.",
)
@state_option
@json_option
def pin(words: tuple[str, ...], process: str | None, journal: Journal, *, as_json: bool) -> None:
    """
    Bind the threads of a guest to CPUs: all of them, read back, or none.

    GUEST is a name, uuid:UUID or pid:PID. KEY is a vCPU number or range (0, 1-3), emulator, io (every IOThread),
    io:NAME, vcpu, vhost or all; the more particular key wins. A record is written first: kvmaff undo.

    \b
    Examples:
      kvmaff pin web 0=4 1=5 emulator=0-1 io=2
      kvmaff pin uuid:6ba7b810-9dad-11d1-80b4-00c04fd430c8 all=0-7
      kvmaff pin --pid 4711 2-3
      kvmaff pin --pid 4711:4715 2
    """
    if process is not None:
        finish_binding(_any_process(process, words, journal), as_json=as_json)
        return
    if not words:
        raise click.UsageError("name a guest and KEY=CPULIST, as in: kvmaff pin web 0=4 1=5")
    guest, wishes = words[0], _wishes(words[1:])

    def call() -> Report:
        host = read_host()
        vmms = tuple(PluginManager.load().vmms().values())
        return pin_guest(
            host, select_guest(find_guests(vmms=vmms), guest), wishes, journal=journal, vmms=vmms
        )

    finish_binding(call, as_json=as_json)


def _any_process(process: str, words: tuple[str, ...], journal: Journal) -> Callable[[], Report]:
    problems = []
    match = _PROCESS.fullmatch(process)
    if match is None:
        problems.append(f"--pid {process!r} is no PID or PID:TID")
    if len(words) != 1:
        problems.append("with --pid, say one CPULIST, as in: kvmaff pin --pid 4711 2-3")
    cpus = CpuSet()
    for word in words[:1]:
        try:
            cpus = CpuSet.parse(word)
        except CpuTextError as error:
            problems.append(str(error))
    if problems or match is None:
        raise click.UsageError("\n".join(problems))
    pid, tid = int(match[1]), int(match[2]) if match[2] else None
    return lambda: pin_process(read_host(), pid, cpus, tid=tid, journal=journal)


def _wishes(words: tuple[str, ...]) -> dict[str, CpuSet]:
    problems, wishes = [], {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            problems.append(f"{word!r} is no KEY=CPULIST")
            continue
        if not is_key(key):
            problems.append(
                f"{word!r}: {key!r} is no vCPU number or range, emulator, io, io:NAME, vcpu, vhost or all"
            )
        if key in wishes:
            problems.append(f"{word!r}: {key!r} is named twice")
        try:
            wishes[key] = CpuSet.parse(text)
        except CpuTextError as error:
            problems.append(f"{word!r}: {error}")
    if not words:
        problems.append("say KEY=CPULIST, as in: kvmaff pin web 0=4 1=5")
    if problems:
        raise click.UsageError("\n".join(problems))
    return wishes
