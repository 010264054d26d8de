"""
The kernel's command line -> what it asks for CPUs.

Grammar: Documentation/admin-guide/kernel-parameters.rst ("cpu lists", with ``N`` for the last CPU and ``all``),
kernel/params.c (quotes; ``-`` and ``_`` are the same in a name; ``--`` ends what is the kernel's),
kernel/sched/isolation.c (flags of isolcpus=; of two that contradict the first holds).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from kvmaff.cpuset import CpuSet
from kvmaff.errors import CpuTextError
from kvmaff.kernel.text import printable

__all__ = ["BOOT_OPTIONS", "WORD", "BootWords", "boot_words"]

BOOT_OPTIONS = ("isolcpus", "nohz_full", "rcu_nocbs", "irqaffinity")
"""The options that keep CPUs from something."""
WORD = re.compile(r'(?:[^\s"]|"[^"]*"?)+')
"""A word of the command line, with blanks where they are in quotes."""
_FLAG = re.compile("([A-Za-z][^,]*)(?:,|$)")
_FLAGS = ("domain", "nohz", "managed_irq")
_SAME = {"nohz": "nohz_full", "nohz_full": "nohz"}  # both are the kernel's HK_TYPE_TICK


@attrs.frozen(kw_only=True)
class BootWords:
    """
    What a command line asks for.

    Attributes:
        asked: CPUs by what is asked for them; possible ones only.
        words: (option, the word as it stands there).
        mistakes: What of it the kernel does not take, a sentence each.
    """

    asked: Mapping[str, CpuSet]
    words: tuple[tuple[str, str], ...]
    mistakes: tuple[str, ...]

    def cpus(self, what: str) -> CpuSet:
        """
        The CPUs for which something is asked.

        Args:
            what: A flag of ``isolcpus=`` (``domain``, which it means without flags, ``nohz``, ``managed_irq``),
                ``nohz_full``, ``rcu_nocbs``, or ``irqaffinity`` (the CPUs that interrupts go to).

        Returns:
            The CPUs; none where it is not asked.
        """
        return self.asked.get(what, CpuSet())

    def word(self, option: str) -> str:
        """
        An option as it stands on the command line.

        Args:
            option: Its name.

        Returns:
            ``isolcpus=4,5``; several of them parted by blanks, the name alone where there is none.
        """
        return " ".join(word for name, word in self.words if name == option) or option


def boot_words(text: str, possible: CpuSet) -> BootWords:
    """
    Read a command line.

    Args:
        text: What /proc/cmdline holds.
        possible: The CPUs that could ever be.

    Returns:
        What it asks for.
    """
    found: dict[str, CpuSet] = {}
    words: list[tuple[str, str]] = []
    mistakes: list[str] = []
    for match in WORD.finditer(text):
        if match[0] == "--":
            break
        name, _, value = match[0].replace('"', "").partition("=")
        name = name.replace("-", "_")
        if name not in BOOT_OPTIONS:
            continue
        shown = printable(f"{name}={value}".encode())
        words.append((name, shown))
        flags: list[str] = [name]
        if name == "isolcpus":
            flags, value = _isolcpus_flags(value, shown, mistakes)
        if name == "rcu_nocbs" and not value:
            continue  # every CPU could be, none is
        try:
            cpus = CpuSet.parse(_numbered(value, possible)) & possible
        except CpuTextError as error:
            mistakes.append(f"{shown} on the kernel's command line is not understood: {error}")
            if name == "rcu_nocbs":
                found[name] = possible  # as the kernel does with what it does not understand
            continue
        first_holds = name in ("isolcpus", "nohz_full")
        same = {*flags, *(_SAME[flag] for flag in flags if flag in _SAME)}
        if first_holds and any(found.get(flag, cpus) != cpus for flag in same):
            mistakes.append(f"{shown} on the kernel's command line contradicts an earlier one, which holds")
            continue
        found |= dict.fromkeys(flags, cpus)
    return BootWords(asked=found, words=tuple(words), mistakes=tuple(mistakes))


def _isolcpus_flags(value: str, shown: str, mistakes: list[str]) -> tuple[list[str], str]:
    """Return the flags before the CPUs, and the CPUs; unknown flags are passed over, as the kernel does."""
    flags = []
    while match := _FLAG.match(value):  # "all" and "N" in front are flags that it does not know, too
        if match[1] in _FLAGS:
            flags.append(match[1])
        else:
            flag = printable(match[1].encode(), 32)
            mistakes.append(f"{shown} on the kernel's command line: the flag {flag} is not known")
        value = value[match.end() :]
    return flags or ["domain"], value


def _numbered(value: str, possible: CpuSet) -> str:
    """Put numbers in the place of ``all`` and of ``N``, the last CPU."""
    last = possible.last
    return re.sub(r"\bN\b", str(last), re.sub(r"\ball\b", f"0-{last}", value))
