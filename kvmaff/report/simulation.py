"""What came of a simulation -> a table for a terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from kvmaff.placement.outcome import Comparison, Figure, Mean

__all__ = ["simulation_table"]

_ROWS = (
    (Figure.VCPUS_SHARE, "vCPUs accepted, %", 100, 2),
    (Figure.GUESTS_SHARE, "guests accepted, %", 100, 2),
    (Figure.EXTRA_NODES, "extra nodes a guest", 1, 4),
    (Figure.EXTRA_L3, "extra L3 groups a guest", 1, 4),
    (Figure.SHARED_CORES, "cores shared a guest", 1, 3),
    (Figure.MOVED_GUESTS, "guests moved a guest", 1, 4),
    (Figure.MOVED_VCPUS, "vCPUs moved a vCPU", 1, 4),
    (Figure.MEAN_USE, "CPUs in use, mean, %", 100, 1),
    (Figure.PEAK_USE, "CPUs in use, peak, %", 100, 1),
    (Figure.DECISION_MEDIAN, "decision, median, ms", 0.001, 2),
    (Figure.DECISION_P99, "decision, 99 %, ms", 0.001, 2),
)


def simulation_table(found: Comparison) -> Table:
    """
    Show contestants side by side.

    Args:
        found: What came of them.

    Returns:
        A column for each; with several seeds each figure is the mean with its standard error, and under the shares
        accepted stands how far they are from the first contestant's, seed by seed.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    seeds = len(found.seeds)
    table.add_column("1 seed" if seeds == 1 else f"{seeds} seeds, mean ± standard error")
    for name in found.contestants:
        table.add_column(Text(name), justify="right", overflow="fold")
    places = range(len(found.contestants))
    for figure, title, scale, digits in _ROWS:
        table.add_row(title, *(_text(found.mean(at, figure), scale, digits) for at in places))
        if figure in (Figure.VCPUS_SHARE, Figure.GUESTS_SHARE) and len(found.contestants) > 1:
            more = (_text(found.difference(at, figure), scale, digits, sign="+") for at in places[1:])
            table.add_row("  points more than the first", "", *more)
    return table


def _text(mean: Mean, scale: float, digits: int, *, sign: str = "") -> str:
    text = f"{mean.value * scale:{sign}.{digits}f}"
    return text if mean.error is None else f"{text} ± {mean.error * scale:.{digits}f}"
