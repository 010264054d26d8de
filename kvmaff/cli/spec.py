"""``kvmaff spec``: what guests need, as QEMU and libvirt know it, written as a spec."""

from __future__ import annotations

from typing import Any

import click

from kvmaff.cli.common import json_errors, json_option, print_json, root_option, say
from kvmaff.cli.values import qemu_version, standard_input
from kvmaff.errors import SpecError
from kvmaff.formats.libvirtread import libvirt_reading
from kvmaff.formats.qemuread import qemu_reading, qemu_text_reading
from kvmaff.formats.reading import SpecReading
from kvmaff.formats.spectoml import spec_data, spec_toml
from kvmaff.formats.tomltext import read_text
from kvmaff.guest.commandline import command_line
from kvmaff.guest.discover import find_guests
from kvmaff.guest.guest import Guest
from kvmaff.guest.select import select_guest
from kvmaff.hooks.manager import PluginManager
from kvmaff.host.reader import read_host

__all__ = ["spec"]


@click.command()
@click.argument("names", nargs=-1, metavar="[GUEST]...")
@click.option(
    "--qemu-args",
    "commands",
    multiple=True,
    metavar="FILE",
    help="A QEMU command line; - for standard input.",
)
@click.option(
    "--libvirt",
    "domains",
    multiple=True,
    metavar="FILE",
    help="A libvirt domain's XML; - for standard input.",
)
@click.option(
    "--qemu",
    callback=qemu_version,
    metavar="VERSION",
    help="The version of the QEMU binary; unless said, that of the machine type.",
)
@root_option
@json_option
def spec(
    names: tuple[str, ...],
    commands: tuple[str, ...],
    domains: tuple[str, ...],
    qemu: tuple[int, int] | None,
    root: str,
    *,
    as_json: bool,
) -> None:
    """
    Write specs (TOML) of guests: of those that run, of QEMU command lines, of libvirt domains.

    Without GUEST and without a file, of all guests that run. A command line does not say how a guest is to be placed:
    add policy, thread_policy and the like yourself. A script counts as a shell reads it, and is not run: one that
    starts several QEMUs, or says with $VARIABLES what matters, is refused. What no spec can hold is told.

    \b
    Examples:
      kvmaff spec web > web.toml
      kvmaff spec --libvirt web.xml | kvmaff place --spec /dev/stdin
      kvmaff spec --qemu-args start-web.sh
    """
    found: list[SpecReading] = []
    problems: list[str] = []
    with json_errors({"specs": [], "notes": []}, as_json=as_json):
        for read, files in ((_command, commands), (_domain, domains)):
            for file in files:
                try:
                    found.append(read(file, qemu))
                except SpecError as error:
                    problems += error.problems
        if names or not (commands or domains):
            for guest in _running(root, names):
                try:
                    found.append(qemu_reading(command_line(guest, root), f"guest {guest.name}", qemu))
                except SpecError as error:
                    problems += error.problems
        if problems:
            raise SpecError.of("", problems)
    notes = [note for one in found for note in one.notes]
    if as_json:
        print_json({"specs": [spec_data(one.spec) for one in found], "notes": notes})
    elif found:
        click.echo("\n".join(spec_toml(one.spec) for one in found), nl=False)
    else:
        say("no guest is running")
    for note in notes:
        say(note)


def _text(file: str, what: str) -> str:
    return read_text(standard_input(file), what=what)


def _command(file: str, qemu: tuple[int, int] | None) -> SpecReading:
    return qemu_text_reading(_text(file, "command line"), file, qemu)


def _domain(file: str, _qemu: Any) -> SpecReading:
    return libvirt_reading(_text(file, "domain"), file)


def _running(root: str, names: tuple[str, ...]) -> list[Guest]:
    running = find_guests(read_host(root).root, vmms=tuple(PluginManager.load().vmms().values()))
    if names:
        return [select_guest(running, name) for name in dict.fromkeys(names)]
    for guest in running:
        if not guest.verified:
            say(f"pid {guest.pid} ({guest.name}) is not proved to be a guest and is passed over: {guest.why}")
    return [guest for guest in running if guest.verified]
