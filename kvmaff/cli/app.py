"""The group that the commands hang on."""

from __future__ import annotations

import click

from kvmaff import __version__
from kvmaff.cli.apply import apply
from kvmaff.cli.capture import capture
from kvmaff.cli.common import Group
from kvmaff.cli.cpu import cpu
from kvmaff.cli.cpumodel import cpumodel
from kvmaff.cli.demo import demo
from kvmaff.cli.emit import emit
from kvmaff.cli.guests import guests
from kvmaff.cli.hotplug import hotplug
from kvmaff.cli.pin import pin
from kvmaff.cli.place import place
from kvmaff.cli.plan import plan
from kvmaff.cli.plugins import plugins
from kvmaff.cli.rebalance import rebalance
from kvmaff.cli.simulate import simulate
from kvmaff.cli.smp import smp
from kvmaff.cli.spec import spec
from kvmaff.cli.strategies import strategies
from kvmaff.cli.topology import topology
from kvmaff.cli.undo import undo

__all__ = ["app"]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kvmaff")
def app() -> None:
    """
    Which host CPU does every thread of every KVM guest run on? See it, set it, prove it, undo it.

    Exit codes: 0 done, 1 cannot, 2 wrong usage.

    \b
    Example:
      kvmaff demo
    """


for _command in (
    apply,
    capture,
    cpu,
    cpumodel,
    demo,
    emit,
    guests,
    hotplug,
    pin,
    place,
    plan,
    plugins,
    rebalance,
    simulate,
    smp,
    spec,
    strategies,
    topology,
    undo,
):
    app.add_command(_command)
