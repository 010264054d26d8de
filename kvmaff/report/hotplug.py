"""What was plugged in, as a table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from kvmaff.binding.hotplug import HotplugReport

__all__ = ["hotplug_table"]


def hotplug_table(report: HotplugReport) -> Table:
    """
    Show the vCPUs that were plugged in.

    Args:
        report: The report.

    Returns:
        The table.
    """
    title = f"{report.guest}: {len(report.plugged)} of {report.asked} vCPUs plugged in"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
    for name in ("vCPU", "thread", "born on", "decided"):
        table.add_column(name, overflow="fold")
    for one in report.plugged:
        born = "-" if one.born is None else str(one.born)
        table.add_row(
            str(one.index), str(one.tid), born, "nothing" if one.decided is None else str(one.decided)
        )
    return table
