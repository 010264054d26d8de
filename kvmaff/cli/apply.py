"""``kvmaff apply``: make it so."""

from __future__ import annotations

import click

from kvmaff.binding.journal import Journal
from kvmaff.binding.report import Report
from kvmaff.cli.common import finish_binding, json_option, state_option
from kvmaff.cli.deciding import Asked, deciding_options
from kvmaff.cli.plan import planned

__all__ = ["apply"]


@click.command()
@deciding_options
@state_option
@json_option
def apply(asked: Asked, journal: Journal, *, as_json: bool) -> None:
    """
    Bind every thread as decided: all of them, read back, or none. The decision is kept.

    Without --strategy this puts back what kvmaff apply decided last; with it, it decides anew. kvmaff undo takes back
    both the masks and the decision.

    \b
    Examples:
      kvmaff apply --strategy numa
      kvmaff apply web --strategy isolated
      kvmaff apply
    """

    def call() -> Report:
        report = planned(asked, journal).apply()
        if not report.threads and not as_json:
            click.echo("nothing to do: every thread is where it should be")
        return report

    finish_binding(call, as_json=as_json)
