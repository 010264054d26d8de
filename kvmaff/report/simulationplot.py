"""What came of a simulation -> one picture."""

from __future__ import annotations

import io

from kvmaff.errors import Unsupported
from kvmaff.placement.outcome import Comparison, Figure

__all__ = ["simulation_svg"]

_PANELS = (
    ((Figure.VCPUS_SHARE, "vCPUs"), (Figure.GUESTS_SHARE, "guests"), 100, "accepted, %"),
    ((Figure.EXTRA_L3, "L3 groups"), (Figure.EXTRA_NODES, "nodes"), 1, "extra, a guest"),
    ((Figure.MOVED_GUESTS, "guests"), (Figure.MOVED_VCPUS, "vCPUs"), 1, "moved for each accepted"),
    ((Figure.DECISION_MEDIAN, "median"), (Figure.DECISION_P99, "99 %"), 0.001, "decision, ms"),
)
_COLOURS = ("#2f5d8a", "#d9903d")
_LONGEST = 40


def simulation_svg(found: Comparison) -> bytes:
    """
    Draw contestants side by side, with standard errors where there are several seeds.

    Args:
        found: What came of them.

    Returns:
        SVG; the same for the same figures.

    Raises:
        Unsupported: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: PLC0415 - an extra, and slow to load
        from matplotlib.figure import Figure as Drawing  # noqa: PLC0415
    except ImportError as error:
        raise Unsupported("a picture needs matplotlib: pip install 'kvmaff[plot]'") from error
    names = [_plain(name) for name in found.contestants]
    places = range(len(names))
    with mpl.rc_context({"svg.hashsalt": "kvmaff", "svg.fonttype": "none", "text.parse_math": False}):
        drawing = Drawing(figsize=(11, 1.8 + 0.42 * len(names)), layout="constrained")
        axes = drawing.subplots(1, len(_PANELS), sharey=True)
        for axis, (one, other, scale, title) in zip(axes, _PANELS, strict=True):
            for side, (figure, label) in enumerate((one, other)):
                means = [found.mean(at, figure) for at in places]
                axis.barh(
                    [at + 0.4 * side - 0.2 for at in places],
                    [mean.value * scale for mean in means],
                    height=0.38,
                    xerr=[(mean.error or 0.0) * scale for mean in means] if len(found.seeds) > 1 else None,
                    color=_COLOURS[side],
                    label=label,
                )
            axis.set_xlabel(title)
            if figure is not Figure.DECISION_P99:  # times are of any size
                axis.set_xlim(left=0)
            axis.spines[["top", "right"]].set_visible(False)
            axis.legend(
                loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize="small"
            )
        axes[0].set_yticks(list(places), names)
        axes[0].invert_yaxis()
        if any(found.mean(at, Figure.DECISION_P99).value > 0 for at in places):
            axes[-1].set_xscale("log")
            axes[-1].xaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes[-1].xaxis.set_minor_formatter(lambda _value, _: "")
        seeds = f"{len(found.seeds)} seeds" if len(found.seeds) > 1 else "1 seed"
        guests = found.outcomes[0][0].guests
        drawing.supxlabel(f"{seeds}, {guests} guests each", fontsize="small")
        out = io.BytesIO()
        drawing.savefig(out, format="svg", metadata={"Date": None, "Creator": "kvmaff"})
    return out.getvalue()


def _plain(name: str) -> str:
    """A name as it may stand in a picture."""
    text = "".join(letter if letter.isprintable() else "?" for letter in name)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
