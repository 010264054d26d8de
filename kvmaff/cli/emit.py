"""``kvmaff emit``: a decided place as QEMU and libvirt are told it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

import attrs
import click

from kvmaff.binding.decided import last_decided
from kvmaff.binding.journal import Journal
from kvmaff.cli.common import json_errors, json_option, print_json, say, state_option
from kvmaff.cli.deciding import Asked, decide, deciding_options, root_option
from kvmaff.cli.values import qemu_version, standard_input
from kvmaff.errors import RequestError, WrongUsage
from kvmaff.formats.libvirtxml import libvirt_domain, machine_of
from kvmaff.formats.qemuargs import qemu_arguments, qemu_notes
from kvmaff.formats.tomltext import read_text
from kvmaff.guest.smprules import SmpRules, writing_rules
from kvmaff.host.reader import Host, read_host
from kvmaff.host.vendor import cpu_vendor
from kvmaff.placement.placement import GuestPlacement
from kvmaff.placement.shape import GuestShape, guest_shape

__all__ = ["emit"]

_MACHINE = "q35"
_FOREIGN = ("virt", "s390-ccw-virtio")
"""Machine types of other architectures, of which the rules are known."""


@click.group()
def emit() -> None:
    """
    Write the place of one guest as QEMU's arguments, or as libvirt's XML.

    What the guest sees matches where it is: dies are L3 groups, threads are siblings, NUMA cells lie on the host's
    nodes, as far apart as these are. A guest that kvmaff apply placed is written as it was decided; another one, or
    with --strategy or --spec, is decided now, and nothing is changed.
    """


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        deciding_options,
        root_option,
        state_option,
        click.option(
            "--machine",
            metavar="TYPE",
            help="The machine type, as pc-q35-7.2; unless said, that of a domain that is there, else q35.",
        ),
        click.option(
            "--qemu",
            callback=qemu_version,
            metavar="VERSION",
            help="The version of the QEMU binary; unless said, that of the machine type.",
        ),
        click.option(
            "--accel",
            type=click.Choice(["kvm", "tcg"]),
            default="kvm",
            show_default=True,
            help="What runs the vCPUs.",
        ),
        json_option,
    ):
        command = option(command)
    return command


@attrs.frozen(kw_only=True)
class _Found:
    """The guest's place, and what it should see of it."""

    host: Host
    shape: GuestShape
    rules: SmpRules
    vendor: str | None


@emit.command()
@_options
@click.option("--cpu", metavar="MODEL", help="The CPU model, with flags; host under KVM, max under TCG.")
@click.option("--prealloc", is_flag=True, help="All memory is there before the guest runs.")
def qemu(
    asked: Asked,
    root: str,
    journal: Journal,
    machine: str | None,
    qemu: tuple[int, int] | None,
    accel: str,
    cpu: str | None,
    *,
    prealloc: bool,
    as_json: bool,
) -> None:
    """
    Print the arguments of qemu-system-x86_64 that concern CPUs, NUMA and memory.

    Disks, networks and firmware are yours to add. QEMU does not pin vCPUs: kvmaff apply does that when it runs.

    \b
    Examples:
      kvmaff emit qemu web --spec guests.toml --machine pc-q35-7.2
      eval "qemu-system-x86_64 $(kvmaff emit qemu web --spec guests.toml) -nodefaults -S"
    """
    with json_errors({"guest": None, "arguments": [], "notes": []}, as_json=as_json):
        machine = machine or _MACHINE
        found = _found(asked, root, journal, machine, qemu, accel)
        model = ("host" if accel == "kvm" else "max") if cpu is None else cpu
        arguments = qemu_arguments(
            found.shape,
            machine=machine,
            cpu=model,
            accel=accel,
            vendor=found.vendor,
            prealloc=prealloc,
            qemu=found.rules.qemu,
        )
        notes = [*found.shape.notes, *qemu_notes(found.shape, machine=machine, cpu=model, accel=accel)]
    if as_json:
        words = [word for option in arguments for word in option]
        print_json({"guest": found.shape.spec.name, "arguments": words, "notes": notes})
    else:
        click.echo(" \\\n".join(shlex.join(option) for option in arguments))
    _say(found.shape, notes)


@emit.command()
@_options
@click.option(
    "--cpu",
    metavar="MODE",
    help="host-passthrough, host-model, maximum, or a model; host-passthrough under KVM, maximum under TCG.",
)
@click.option(
    "--base",
    metavar="FILE",
    help="A domain, as virsh dumpxml prints it, of which everything else stays; - for standard input. IOThreads stay, "
    "too, where the spec names none.",
)
def libvirt(
    asked: Asked,
    root: str,
    journal: Journal,
    machine: str | None,
    qemu: tuple[int, int] | None,
    accel: str,
    cpu: str | None,
    base: str | None,
    *,
    as_json: bool,
) -> None:
    """
    Print a libvirt domain: vCPUs, CPU topology, NUMA cells, memory, IOThreads, and all pins.

    \b
    Examples:
      kvmaff emit libvirt web --spec guests.toml > web.xml
      virsh dumpxml web | kvmaff emit libvirt web --spec guests.toml --base - | virsh define /dev/stdin
    """
    with json_errors({"guest": None, "xml": None, "notes": []}, as_json=as_json):
        text = None
        if base is not None:
            text = read_text(standard_input(base), what="domain")
            machine = machine or machine_of(text)
        machine = machine or _MACHINE
        found = _found(asked, root, journal, machine, qemu, accel)
        domain = libvirt_domain(
            found.shape,
            machine=machine,
            cpu=("host-passthrough" if accel == "kvm" else "maximum") if cpu is None else cpu,
            accel=accel,
            vendor=found.vendor,
            base=text,
        )
    notes = [*found.shape.notes, *domain.notes]
    if as_json:
        print_json({"guest": found.shape.spec.name, "xml": domain.xml, "notes": notes})
    else:
        click.echo(domain.xml, nl=False)
    _say(found.shape, notes)


def _found(
    asked: Asked, root: str, journal: Journal, machine: str, qemu: tuple[int, int] | None, accel: str
) -> _Found:
    if len(asked.names) != 1:
        raise click.UsageError("name the one GUEST that is to be written")
    rules = writing_rules(machine, qemu, accel)
    if rules.machine.startswith(_FOREIGN):
        raise WrongUsage.of(
            [f"machine type {machine!r} is none of x86's; what is written is for qemu-system-x86_64"]
        )
    host, placed = _place(asked, root, journal)
    shape = guest_shape(host, placed, rules)
    return _Found(host=host, shape=shape, rules=rules, vendor=cpu_vendor(host.root))


def _place(asked: Asked, root: str, journal: Journal) -> tuple[Host, GuestPlacement]:
    (name,) = asked.names
    if asked.strategy is None and not asked.spec_files and root == "/":
        decided = last_decided(journal)
        for one in decided.guests if decided else ():
            if one.spec.name == name or (one.spec.uuid and name.lower() == f"uuid:{one.spec.uuid}"):
                return read_host(root), one
    found = decide(asked, journal, root)
    if found.unplaced:
        raise RequestError.of(
            [f"{one.name} has no place: {reason}" for one in found.unplaced for reason in one.reasons]
        )
    guests = found.placement.guests if found.placement else ()
    mine = [one for one in guests if one.spec.name == name] or list(guests)
    if len(mine) != 1:
        raise RequestError.of([f"guest {name!r} was not placed"])
    return found.host, mine[0]


def _say(shape: GuestShape, notes: list[str]) -> None:
    for note in notes:
        say(f"{shape.spec.name}: {note}")
