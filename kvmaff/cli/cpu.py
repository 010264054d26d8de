"""``kvmaff cpu``: what runs on a CPU."""

from __future__ import annotations

import re

import click

from kvmaff.cli.common import console, json_errors, json_option, print_json, root_option, say
from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError, KvmaffError
from kvmaff.formats.plain import cpu_data, grant_data
from kvmaff.guest.discover import find_guests
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.grants import granted, reasons
from kvmaff.host.occupants import on_cpus
from kvmaff.host.reader import Host, read_host
from kvmaff.report.occupants import guest_threads, occupants

__all__ = ["cpu"]


class _Cpus(click.ParamType):  # type: ignore[type-arg]
    name = "cpulist"

    def convert(self, value: str, param: click.Parameter | None, context: click.Context | None) -> CpuSet:
        """Read a cpulist of at least one CPU."""
        try:
            cpus = CpuSet.parse(value)
        except CpuTextError as error:
            self.fail(str(error), param, context)
        if not cpus:
            self.fail("no CPU is named", param, context)
        return cpus


class _Thread(click.ParamType):  # type: ignore[type-arg]
    name = "pid[:tid]"

    def convert(
        self, value: str, param: click.Parameter | None, context: click.Context | None
    ) -> tuple[int, int | None]:
        """Read a process and a thread of it."""
        match = re.fullmatch("([1-9][0-9]{0,8})(?::([1-9][0-9]{0,8}))?", value)
        if match is None:
            self.fail("a process is a number, a thread of it PID:TID", param, context)
        return int(match[1]), int(match[2]) if match[2] else None


@click.command()
@click.argument("cpus", type=_Cpus(), metavar="CPULIST")
@click.option(
    "--pid", "whose", type=_Thread(), metavar="PID[:TID]", help="May this process or thread run there?"
)
@click.option("--all", "everything", is_flag=True, help="Fold nothing.")
@root_option
@json_option
def cpu(
    cpus: CpuSet, root: str, *, whose: tuple[int, int | None] | None, everything: bool, as_json: bool
) -> None:
    """
    Show what runs on a CPU, what else may, and whether an isolated one is clean.

    \b
    Examples:
      kvmaff cpu 5
      kvmaff cpu 4,5 --json
      kvmaff cpu 5 --pid 1234
      kvmaff cpu 5 --root host.tar.xz
    """
    with json_errors({"cpus": [], "granted": None}, as_json=as_json):
        host = read_host(root)
        found = on_cpus(host, cpus)
        pid, tid = whose or (None, None)
        why_not = reasons(host, cpus, pid, tid)
    names = _names(host)
    if as_json:
        print_json(
            {
                "cpus": [cpu_data(one, names, why_not[one.cpu]) for one in found],
                "granted": grant_data(granted(host, pid, tid)),
            }
        )
        return
    for place, one in enumerate(found):
        if place:
            console().print()
        console().print(occupants(one, host, names, why_not[one.cpu], everything=everything))


def _names(host: Host) -> dict[int, str]:
    """What threads of guests are; where guests cannot be looked for, threads are what they call themselves."""
    try:
        return guest_threads(find_guests(host.root, vmms=tuple(PluginManager.load().vmms().values())))
    except KvmaffError as error:
        say(f"guests are not told apart: {error}")
        return {}
