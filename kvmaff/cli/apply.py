"""``kvmaff apply``: make it so."""

from __future__ import annotations

import attrs
import click

from kvmaff.binding.journal import Journal
from kvmaff.binding.report import Report
from kvmaff.cli.common import finish_binding, json_option, state_option
from kvmaff.cli.deciding import Asked, deciding_options
from kvmaff.cli.plan import planned, say_of

__all__ = ["apply"]


@click.command()
@deciding_options
@state_option
@json_option
def apply(asked: Asked, journal: Journal, *, as_json: bool) -> None:
    """
    Bind every thread as decided: all of them, read back, or none. The decision is kept.

    Without GUEST all running guests are decided for together, and nothing that was decided before stays.

    Without --strategy this puts back what kvmaff apply decided last; with it, it decides anew. kvmaff undo takes back
    both the masks and the decision.

    \b
    Examples:
      kvmaff apply --strategy numa
      kvmaff apply web --strategy isolated
      kvmaff apply
    """

    def call() -> Report:
        made = planned(asked, journal)
        report = made.apply()
        if not report.threads and not as_json:
            click.echo("nothing to do: every decided thread is where it should be")
        say_of(made)
        return attrs.evolve(report, ok=report.ok and not made.homeless)

    finish_binding(call, as_json=as_json)
