"""
``-cpu`` as people write it.

Rule (QEMU target/i386/cpu.c, x86_cpu_parse_featurestr; hw/core/cpu-common.c): ``MODEL`` and then, by commas,
``name=value``, ``name`` for ``name=on``, ``+name`` and ``-name``. These two hold against all ``name=value``, and
``-name`` against ``+name``, wherever they stand. ``_`` in a name is ``-``.
"""

from __future__ import annotations

import re

import attrs

from kvmaff.errors import WrongUsage
from kvmaff.kernel.text import printable

__all__ = ["CpuText", "parse_cpu"]

_LONGEST = 1 << 16
_TEXTS = frozenset({"model-id", "vendor", "hv-vendor-id"})
_NUMBER = re.compile(r"-?(?:0[xX][0-9a-fA-F]{1,16}|0|[1-9][0-9]{0,19})", re.ASCII)
_YES = {
    "on": True,
    "yes": True,
    "true": True,
    "y": True,
    "off": False,
    "no": False,
    "false": False,
    "n": False,
}


@attrs.frozen(kw_only=True)
class CpuText:
    """
    A ``-cpu`` that was written.

    Attributes:
        model: The model's name.
        words: (property, value) of what is set otherwise than it is in the model, in the order in which QEMU does so.
    """

    model: str
    words: tuple[tuple[str, bool | int | str], ...]

    @property
    def props(self) -> dict[str, bool | int | str]:
        """The last word on each property; one with several names (``sse4-2``, ``sse4.2``) may be there with each."""
        return dict(self.words)


def parse_cpu(text: str) -> CpuText:
    """
    Read what ``-cpu`` takes.

    Args:
        text: It.

    Returns:
        The model and what is set; whether QEMU knows these names is not known here.

    Raises:
        WrongUsage: It is no such text; says all that is wrong.
    """
    if len(text) > _LONGEST or not text.isprintable():
        raise WrongUsage.of([f"a -cpu is printable text of at most {_LONGEST} characters"])
    model, *words = text.split(",")
    wrong = [] if model and "=" not in model and model[0] not in "+-" else ["it begins with the model's name"]
    equal: list[tuple[str, bool | int | str]] = []
    signed: list[tuple[str, bool]] = []
    for word in words:
        if not word:
            continue
        sign = word[0] if word[0] in "+-" else ""
        name, has_value, value = word[len(sign) :].partition("=")
        name = name.replace("_", "-")
        if not name or (sign and has_value):
            wrong.append(f"{printable(word.encode(), 32)!r} is no property")
        elif sign:
            signed.append((name, sign == "+"))
        else:
            equal.append((name, _value(name, value) if has_value else True))
    if wrong:
        said = printable(text.encode(errors="replace"), 64)
        raise WrongUsage.of([f"-cpu {said!r}: {one}" for one in wrong])
    signed.sort(key=lambda pair: not pair[1])
    return CpuText(model=model, words=(*equal, *signed))


def _value(name: str, value: str) -> bool | int | str:
    if name in _TEXTS:
        return value
    if value in _YES:
        return _YES[value]
    if _NUMBER.fullmatch(value) and abs(number := int(value, 0)) < 1 << 64:
        return number
    return value
