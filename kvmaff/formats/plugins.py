"""Plug-ins -> what JSON can hold; the shape is a contract, as those of :mod:`kvmaff.formats.plain`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kvmaff.hooks.plugin import PluginInfo

__all__ = ["plugins_data"]


def plugins_data(plugins: Iterable[PluginInfo]) -> list[dict[str, Any]]:
    """
    Describe plug-ins.

    Args:
        plugins: The plug-ins.

    Returns:
        For each ``name, distribution, version`` (null where not known), ``hooks, strategies, vmms`` (lists of names),
        ``error`` (null where nothing is wrong) and ``disabled``.
    """
    return [
        {
            "name": plugin.name,
            "distribution": plugin.distribution,
            "version": plugin.version,
            "hooks": list(plugin.hooks),
            "strategies": list(plugin.strategies),
            "vmms": list(plugin.vmms),
            "error": plugin.error,
            "disabled": plugin.disabled,
        }
        for plugin in plugins
    ]
