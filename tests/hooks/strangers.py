"""Plug-ins as strangers install them: a module and a dist-info folder, found on the path."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

HEAD = "import kvmaff\nfrom kvmaff import *\n"

STRATEGY = """
def place(request):
    raise PlacementImpossible("none", unplaced=tuple(
        Unplaced(name=demand.spec.name, reasons=("nowhere",)) for demand in request.demands), placement=None)

@hookimpl
def kvmaff_strategies():
    return [Strategy(name={name!r}, summary="a test's", place=place)]
"""
"""A plug-in with one good strategy, which never finds a place."""


def install(folder: Path, name: str, code: str, *, distribution: str = "", entry: str = "") -> str:
    """Install a plug-in; its module gets a name that no other test's has."""
    module = f"stranger_{name.replace('-', '_')}_{abs(hash(str(folder)))}"
    distribution = distribution or f"kvmaff-{name}"
    (folder / f"{module}.py").write_text(HEAD + textwrap.dedent(code))
    info = folder / f"{distribution.replace('-', '_')}-1.5.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.5\n")
    points = info / "entry_points.txt"
    before = points.read_text() if points.exists() else "[kvmaff]\n"
    points.write_text(f"{before}{entry or name} = {module}\n")
    return module


SABOTEURS: dict[str, tuple[str, str]] = {
    "import-error": ("import there_is_no_such_module", "ModuleNotFoundError: No module named"),
    "syntax-error": ("def", "SyntaxError"),
    "exits": ("import sys; sys.exit('bye')", "SystemExit: bye"),
    "panics": (
        "class PanicException(BaseException): pass\nraise PanicException('rust')",
        "PanicException: rust",
    ),
    "raises-itself": (
        "class Bad(Exception):\n    def __str__(self): raise SystemExit\nraise Bad",
        "Bad: (Bad that has no text)",
    ),
    "misspelt": (
        "@hookimpl\ndef kvmaff_strategys(): return []",
        "there is no hook 'kvmaff_strategys', did you mean 'kvmaff_strategies'?",
    ),
    "two-mistakes": (
        "@hookimpl\ndef kvmaff_vms(): return []\n@hookimpl(tryfirst=True)\ndef kvmaff_strategies(): return []",
        "kvmaff_strategies asks for a place in an order, and there is none; there is no hook 'kvmaff_vms'",
    ),
    "wrong-argument": (
        "@hookimpl\ndef kvmaff_reserved_cpus(topologie): return None",
        "can not be found in the hookspec",
    ),
    "wrapper": (
        "@hookimpl(wrapper=True)\ndef kvmaff_check_placement():\n    yield\n    return []",
        "kvmaff_check_placement is a wrapper",
    ),
    "old-wrapper": (
        "@hookimpl(hookwrapper=True)\ndef kvmaff_strategies():\n    yield",
        "kvmaff_strategies is a wrapper",
    ),
    "first": ("@hookimpl(tryfirst=True)\ndef kvmaff_strategies(): return []", "asks for a place in an order"),
    "last": ("@hookimpl(trylast=True)\ndef kvmaff_strategies(): return []", "asks for a place in an order"),
    "unmarked": ("def kvmaff_strategies(): return []", "implements no hook; is @hookimpl missing?"),
    "raises": (
        "@hookimpl\ndef kvmaff_strategies(): raise ValueError('not today')",
        "kvmaff_strategies failed: ValueError: not today",
    ),
    "exits-later": ("@hookimpl\ndef kvmaff_vmms(): raise SystemExit(3)", "kvmaff_vmms failed: SystemExit: 3"),
    "forgets-return": ("@hookimpl\ndef kvmaff_strategies(): pass", "gave None, not an iterable"),
    "gives-number": ("@hookimpl\ndef kvmaff_strategies(): return 7", "a value of type int, not an iterable"),
    "gives-text": (
        "@hookimpl\ndef kvmaff_strategies(): return 'pack'",
        "a value of type str, not an iterable",
    ),
    "breaks-midway": (
        "@hookimpl\ndef kvmaff_strategies():\n    return (1 / 0 for _ in 'x')",
        "ZeroDivisionError",
    ),
    "endless": (
        "import itertools\n@hookimpl\ndef kvmaff_strategies(): return itertools.repeat(1)",
        "more than 1000 values",
    ),
    "wrong-value": (
        "@hookimpl\ndef kvmaff_strategies(): return [Strategy, None]",
        "a value of type type is no Strategy; None is no Strategy",
    ),
    "subclass": (
        (
            "class Mine(Strategy): pass\n@hookimpl\ndef kvmaff_strategies():\n"
            "    return [Mine(name='mine', summary='s', place=print)]"
        ),
        "a value of type Mine is no Strategy",
    ),
    "bad-name": (
        "@hookimpl\ndef kvmaff_strategies():\n    return [Strategy(name='A b', summary='s', place=print)]",
        "lower-case words",
    ),
    "bad-fields": (
        (
            "@hookimpl\ndef kvmaff_strategies():\n    return [Strategy(name='odd', summary='a\\nb', place=7, "
            "options=int, vcpu_policy='shared')]"
        ),
        "strategy 'odd': its summary is one printable line, not 'a b'; strategy 'odd': its place is",
    ),
    "bad-options": (
        (
            "import attrs\n@attrs.frozen\nclass O:\n    a: list = ()\n@hookimpl\ndef kvmaff_strategies():\n"
            "    return [Strategy(name='odd', summary='s', place=print, options=O)]"
        ),
        "a is of a type other than str, int, float, bool and enum.StrEnum",
    ),
    "no-default": (
        (
            "import attrs\n@attrs.frozen\nclass O:\n    a: int\n@hookimpl\ndef kvmaff_strategies():\n"
            "    return [Strategy(name='odd', summary='s', place=print, options=O)]"
        ),
        "a has no default",
    ),
    "odd-options": (
        (
            "import attrs, enum\nclass E(enum.StrEnum):\n    A = 'a b'\nclass N(enum.StrEnum): pass\n"
            "@attrs.frozen\nclass O:\n    a: E = E.A\n    n: N = ''\n    b: int = option(True, 'is one')\n"
            "    c: bool = option(True, 'two\\nlines')\n@hookimpl\ndef kvmaff_strategies():\n"
            "    return [Strategy(name='odd', summary='s', place=print, options=O)]"
        ),
        (
            "its options: a is an enum whose values are not 1 to 100 printable words; n is an enum whose values are "
            "not 1 to 100 printable words; b is a whole number, its default is a value of type bool; c has a help "
            "that is not one printable line"
        ),
    ),
    "options-that-run": (
        (
            "import attrs\n@attrs.frozen\nclass O:\n    a: '1 / 0' = 1\n@hookimpl\ndef kvmaff_strategies():\n"
            "    return [Strategy(name='odd', summary='s', place=print, options=O)]"
        ),
        "strategy 'odd': its options: division by zero",
    ),
    "twice": (
        "@hookimpl\ndef kvmaff_strategies():\n    return [Strategy(name='odd', summary='s', place=print)] * 2",
        "it gives strategy 'odd' 2 times",
    ),
    "bad-vmm": (
        (
            "@hookimpl\ndef kvmaff_vmms():\n    return [Vmm(name='v', executables='qemu*', vcpu='(', iothread='x', "
            "vouched={1})]"
        ),
        "VMM 'v': its executables are a tuple of texts, not 'qemu*'",
    ),
    "steals-vmm": (
        "@hookimpl\ndef kvmaff_vmms(): return [Vmm(name='qemu', executables=('*',), vcpu='(.)')]",
        "a built-in VMM has that name",
    ),
    "hostile": (
        "raise ValueError('\\x1b[2Jgone\\u202e\\nnext ' + 'x' * 9999)",
        "ValueError: ?[2Jgone? next xxx",
    ),
    "hostile-hook": (
        "def f(): pass\nf = kvmaff.hookimpl(specname='kvmaff_\\x1b[31m')(f)",
        "there is no hook 'kvmaff_?[31m'",
    ),
}
"""By name: a plug-in that does one thing wrong, and what is said of it."""

Install = Callable[..., str]
