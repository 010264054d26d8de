"""A strategy and its options as one callable, which other processes may be sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kvmaff.hooks.manager import PluginManager
from kvmaff.placement.placement import Placement
from kvmaff.placement.request import PlacementRequest

__all__ = ["Chosen"]


class Chosen:
    """
    Decides by a strategy.

    Args:
        strategy: Its name.
        options: Its options by name, as texts or values; None for its defaults.
        plugins: The plug-ins; None for all that are installed, where it decides first. Only then does it pickle.
    """

    def __init__(
        self,
        strategy: str,
        options: Mapping[str, object] | None = None,
        *,
        plugins: PluginManager | None = None,
    ) -> None:
        self.strategy = strategy
        self.options = dict(options or {})
        self._given = plugins
        self._plugins = plugins

    def __call__(self, request: PlacementRequest) -> Placement:
        """
        Decide.

        Args:
            request: What is to be decided.

        Returns:
            The placement, verified.

        Raises:
            KvmaffError: As :meth:`kvmaff.hooks.manager.PluginManager.decide` does.
        """
        if self._plugins is None:
            self._plugins = PluginManager.load()
        return self._plugins.decide(request, self.strategy, self.options)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._given is not None:
            raise TypeError("plug-ins that a program has registered itself cannot be sent to another process")
        return Chosen, (self.strategy, self.options)
