"""``kvmaff demo``: the whole way on guests of our own, in seconds, leaving nothing behind."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import attrs
import click
from rich.text import Text

from kvmaff.binding.journal import Journal
from kvmaff.binding.pin import pin_guest
from kvmaff.binding.report import Report
from kvmaff.binding.undo import undo
from kvmaff.cli.common import console, json_option, print_json
from kvmaff.cpuset import CpuSet
from kvmaff.errors import KvmaffError
from kvmaff.formats.plain import guests_data, report_data, topology_data
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.usage import cpu_times
from kvmaff.guest.vmm import Vmm
from kvmaff.host.reader import Host, read_host
from kvmaff.placement.fit import Order, fit_in_node
from kvmaff.report.hostsummary import host_summary
from kvmaff.report.tables import guests_table, load_table, report_table
from kvmaff.testing.microvm import Microvm, Mode
from kvmaff.testing.vouched import vouch

__all__ = ["demo"]

_MODES = (Mode.SPIN, Mode.HALT, Mode.EXIT)


@click.command()
@click.option(
    "--guests", "count", type=click.IntRange(1, 16), default=3, show_default=True, help="How many guests."
)
@click.option("--vcpus", type=click.IntRange(1, 16), default=2, show_default=True, help="vCPUs of each.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 60),
    default=1.0,
    show_default=True,
    help="How long they run bound.",
)
@json_option
def demo(count: int, vcpus: int, seconds: float, *, as_json: bool) -> None:
    """
    Start small guests of our own, bind their vCPUs, read back, undo, clean up.

    The guests are real KVM virtual machines with a few bytes of code each; where /dev/kvm is missing or refused, plain
    threads stand in and are labelled so. Needs no root, no QEMU and no image.

    \b
    Examples:
      kvmaff demo
      kvmaff demo --guests 1 --vcpus 4
    """
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="kvmaff-demo-"))
        microvms = [
            stack.enter_context(
                Microvm.start(f"demo-{n + 1}", vcpus=vcpus, mode=Mode.HALT, iothreads=["disk0"])
            )
            for n in range(count)
        ]
        for n, microvm in enumerate(
            microvms
        ):  # once all are up: spinning ones leave the others no time to start
            microvm.mode(_MODES[n % len(_MODES)])
        stage = _Stage(
            host=read_host(),
            microvms=microvms,
            vmms=vouch(microvms),
            journal=Journal(os.path.join(state, "records")),
            quiet=as_json,
        )
        result = stage.play(seconds)
    if as_json:
        print_json(result)
    else:
        console().print(
            f"[bold]{'done' if result['ok'] else 'NOT done'}[/]: the guests are gone, nothing is left behind"
        )
    if not result["ok"]:
        raise click.exceptions.Exit(1)


@attrs.frozen(kw_only=True)
class _Stage:
    """What the demo plays with."""

    host: Host
    microvms: Sequence[Microvm]
    vmms: tuple[Vmm, ...]
    journal: Journal
    quiet: bool

    def play(self, seconds: float) -> dict[str, Any]:
        """Run the demo and return what it found, for JSON."""
        self._show(f"1  this host{'' if self.host.topology.cores else ' (it does not say much of itself)'}")
        self._show(host_summary(self.host))
        before = self._guests()
        label = "real KVM" if all(vm.kvm for vm in self.microvms) else str(self.microvms[0].why)
        self._show(f"2  {len(before)} guests, started for this demo ({label})")
        self._show(guests_table(before))

        plan = _plan(self.host, before)
        self._show(
            "3  bind: every vCPU to a CPU of its own as far as they go, the rest of each guest beside them"
        )
        pinned = []
        for guest, wishes in zip(before, plan, strict=True):
            words = " ".join(f"{key}={cpus}" for key, cpus in wishes.items())
            self._show(f"   kvmaff pin {guest.name} {words}", title=False)
            pinned.append(pin_guest(self.host, guest, wishes, journal=self.journal, vmms=self.vmms))
            self._show(report_table(pinned[-1]))

        spent = {guest.name: cpu_times(guest.vcpus) for guest in before}
        time.sleep(seconds)
        bound = self._guests()
        self._show(f"4  which CPU carries what, {seconds:g} s later")
        self._show(load_table(self.host, bound))
        modes = {guest.name: cpu_times(guest.vcpus).since(spent[guest.name]) for guest in bound}
        for name, times in modes.items():
            self._show(
                f"   {name}: its vCPUs ran {times.guest} ms in guest, {times.user} ms in user and "
                f"{times.kernel} ms in kernel mode",
                title=False,
            )
        asked = {thread.tid: thread.asked for report in pinned for thread in report.threads}
        agree = sum(CpuSet(os.sched_getaffinity(tid)) == cpus for tid, cpus in asked.items())
        self._show(f"5  the kernel says: {agree} of {len(asked)} threads have the mask that was asked")

        undone = self._undo_all(len(pinned))
        after = self._guests()
        restored = _masks(after) == _masks(before)
        self._show(f"6  undo: {'every mask is what it was' if restored else 'NOT every mask is what it was'}")
        self._show(guests_table(after))
        return {
            "ok": agree == len(asked) and restored and all(report.ok for report in (*pinned, *undone)),
            "kvm": all(vm.kvm for vm in self.microvms),
            "why": next((vm.why for vm in self.microvms if vm.why), None),
            "topology": topology_data(self.host),
            "guests": guests_data(before),
            "pinned": [report_data(report) for report in pinned],
            "bound": guests_data(bound),
            "milliseconds": {name: attrs.asdict(times) for name, times in modes.items()},
            "undone": [report_data(report) for report in undone],
            "restored": restored,
        }

    def _guests(self) -> tuple[Guest, ...]:
        found = find_guests(vmms=self.vmms, pids=[vm.pid for vm in self.microvms])
        if len(found) != len(self.microvms):
            raise KvmaffError(f"only {len(found)} of {len(self.microvms)} demo guests are still running")
        return found

    def _undo_all(self, count: int) -> list[Report]:
        return [undo(journal=self.journal) for _ in range(count)]

    def _show(self, what: Any, *, title: bool = True) -> None:
        if self.quiet:
            return
        out = console()
        if isinstance(what, str) and title:
            out.print()
            out.print(Text(what, style="bold"))
        else:
            out.print(what, markup=False) if isinstance(what, str) else out.print(what)


def _plan(host: Host, guests: Sequence[Guest]) -> list[dict[str, CpuSet]]:
    """Give each guest's vCPUs a place of their own, by the exact fit, and start over when the CPUs are used up."""
    usable = CpuSet(os.sched_getaffinity(0)) & host.topology.online
    cores = [core & usable for core in host.topology.cores if core & usable] or [
        CpuSet([cpu]) for cpu in usable
    ]
    free, plan = usable, []
    for guest in guests:
        count = len(guest.vcpus)
        fit = fit_in_node(Order(vcpus=count), cores=cores, l3=host.topology.l3, free=free)
        if fit is None:
            free = usable
            fit = fit_in_node(Order(vcpus=count), cores=cores, l3=host.topology.l3, free=free)
        order = fit.order if fit else tuple(usable)
        free -= CpuSet(order)
        wishes = {str(n): CpuSet([order[n % len(order)]]) for n in range(count)}
        plan.append({**wishes, "emulator": CpuSet(order), "io": CpuSet(order)})
    return plan


def _masks(guests: Sequence[Guest]) -> dict[int, CpuSet | None]:
    return {thread.tid: thread.mask for guest in guests for thread in guest.threads}
