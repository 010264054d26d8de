"""``kvmaff undo``: put masks back as they were."""

from __future__ import annotations

import click

from kvmaff.binding.journal import Journal
from kvmaff.binding.report import Report
from kvmaff.binding.undo import discard, list_records
from kvmaff.binding.undo import undo as undo_record
from kvmaff.cli.common import console, finish_binding, json_option, print_json, state_option
from kvmaff.formats.plain import records_data
from kvmaff.report.tables import records_table

__all__ = ["undo"]


@click.command()
@click.argument("record", type=click.IntRange(min=1), required=False)
@click.option("--list", "listing", is_flag=True, help="Show the records instead of undoing one.")
@click.option("--force", is_flag=True, help="Also overwrite masks that somebody else has set since.")
@click.option(
    "--discard",
    "drop",
    type=click.IntRange(min=1),
    metavar="RECORD",
    help="Remove a record without undoing it.",
)
@state_option
@json_option
def undo(
    record: int | None, drop: int | None, journal: Journal, *, listing: bool, force: bool, as_json: bool
) -> None:
    """
    Put back what the last kvmaff pin changed, or what RECORD says.

    \b
    Examples:
      kvmaff undo
      kvmaff undo --list
      kvmaff undo 3
      kvmaff undo --discard 3
    """
    if (listing or drop is not None) and (record is not None or force or (listing and drop is not None)):
        raise click.UsageError("--list and --discard stand alone")
    if listing:
        records = list_records(journal)
        if as_json:
            print_json(records_data(records))
        elif records:
            console().print(records_table(records))
        else:
            click.echo("nothing to undo")
        return
    if drop is not None:
        discard(drop, journal)
        if as_json:
            print_json({"ok": True, "changed": 0, "threads": [], "errors": []})
        return

    def call() -> Report:
        before = len(list_records(journal))
        report = undo_record(record, journal=journal, force=force)
        if not report.threads and not as_json:
            undone = len(list_records(journal)) < before
            click.echo(
                "the decision is taken back; no mask had been changed" if undone else "nothing to undo"
            )
        return report

    finish_binding(call, as_json=as_json)
