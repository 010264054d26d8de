"""Plug-ins -> a table for a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.hooks.plugin import PluginInfo

__all__ = ["plugins_table"]


def plugins_table(plugins: Iterable[PluginInfo]) -> Table:
    """
    Show plug-ins.

    Args:
        plugins: The plug-ins.

    Returns:
        A row for each: what it is, what it gives, and what is wrong with it.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("plug-in", "from", "strategies", "VMMs", "other hooks", "state"):
        table.add_column(title, overflow="fold")
    for plugin in plugins:
        whose = " ".join(word for word in (plugin.distribution, plugin.version) if word)
        # those two hooks show by what they give
        others = [hook for hook in plugin.hooks if hook not in ("kvmaff_strategies", "kvmaff_vmms")]
        table.add_row(
            Text(plugin.name, style="bold"),
            Text(whose or "this program"),
            Text(", ".join(plugin.strategies)),
            Text(", ".join(plugin.vmms)),
            Text(", ".join(hook.removeprefix("kvmaff_") for hook in others)),
            _state(plugin),
        )
    return table


def _state(plugin: PluginInfo) -> Text:
    if plugin.disabled:
        return Text("disabled", style="yellow")
    return Text(plugin.error, style="red") if plugin.error else Text("works", style="green")
