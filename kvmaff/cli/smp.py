"""``kvmaff smp``: what QEMU makes of ``-smp``."""

from __future__ import annotations

import click

from kvmaff.cli.common import console, json_errors, json_option, print_json, say
from kvmaff.cli.values import qemu_version
from kvmaff.formats.smp import smp_data
from kvmaff.guest.smp import read_smp
from kvmaff.guest.smprules import smp_rules
from kvmaff.report.smp import places_table, smp_table

__all__ = ["smp"]


@click.command()
@click.argument("texts", nargs=-1, required=True, metavar="TEXT...")
@click.option(
    "--machine", default="q35", metavar="TYPE", show_default=True, help="The machine type, as pc-q35-7.2."
)
@click.option(
    "--qemu",
    callback=qemu_version,
    metavar="VERSION",
    help="The version of the QEMU binary; unless said, that of the machine type, for an alias the newest known.",
)
@click.option(
    "--accel",
    type=click.Choice(["kvm", "tcg"]),
    default="kvm",
    show_default=True,
    help="What runs the vCPUs.",
)
@json_option
def smp(
    texts: tuple[str, ...], machine: str, qemu: tuple[int, int] | None, accel: str, *, as_json: bool
) -> None:
    """
    Say what QEMU makes of -smp TEXT, and what the guest will see.

    It is the version of the machine type, not that of QEMU, that decides whether 8 vCPUs are 8 sockets or 8 cores. No
    QEMU is started.

    \b
    Examples:
      kvmaff smp 8 --machine pc-q35-6.1
      kvmaff smp 8,sockets=2 --machine q35 --qemu 7.2
      kvmaff smp 4,maxcpus=16,threads=2 --json
    """
    with json_errors(smp_data(None), as_json=as_json):
        reading = read_smp(texts, smp_rules(machine, qemu, accel))
    if as_json:
        print_json(smp_data(reading))
    else:
        out = console()
        out.print(smp_table(reading))
        out.print(places_table(reading))
    for warning in reading.warnings:
        say(f"warning: {warning}")
