"""
A shell's script that starts a QEMU -> the words of that QEMU's command line.

Rules:

1. A command that names a QEMU and gives it an option starts one; so does one whose program only a shell knows and that
   has options of QEMU. One that asks a QEMU for its version or its help starts no guest.
2. A spec is of one guest: of several QEMUs none is taken.
3. A text that names no QEMU may be options alone, as ``kvmaff emit qemu`` prints them; lines then need not go on.
4. What only a shell knows is refused where it could say something of the spec, and is passed over elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from kvmaff.errors import SpecError
from kvmaff.formats.qemuwords import READ, options
from kvmaff.formats.shell import Command, ShellError, Word, shell_commands
from kvmaff.formats.tomltext import shown

__all__ = ["qemu_words"]

_PROGRAM = re.compile(r"(?:.*/)?(?:qemu-system-[a-z0-9_]+|qemu-kvm)|/.*/kvm", re.ASCII | re.DOTALL)
_TELLING = frozenset(
    {"-name", "-smp", "-machine", "-M", "-numa", "-enable-kvm", "-device", "-drive", "-uuid"}
)
"""Options that no other program is likely to have."""
_ASKING = frozenset({"-version", "--version", "-h", "-help", "--help"})
_OBJECTS = ("memory-backend", "iothread", "{", "$", "`")
_DEVICES = ("vfio", "{", "$", "`")


def qemu_words(text: str, where: str) -> list[str]:
    """
    Find the QEMU that a script starts.

    Args:
        text: The script, or options alone.
        where: The file's name, for messages.

    Returns:
        Its arguments.

    Raises:
        SpecError: There is no QEMU, or more than one; or its arguments are not known without a shell. Says all that is
            wrong.
    """
    try:
        commands = shell_commands(text)
    except ShellError as error:
        raise SpecError.of(where, [f"{where}:{error.line}: is no command line: {error.message}"]) from None
    found = [words for command in commands if (words := _arguments(command)) is not None]
    if len(found) > 1:
        lines = ", ".join(str(words[0].line) for words in found)
        several = f"{where}: starts {len(found)} QEMUs, in lines {lines}"
        raise SpecError.of(where, [f"{several}; a spec is of one guest: give each in a file of its own"])
    if not found and commands:
        if not all(command.words[0].text.startswith("-") for command in commands) or any(
            command.end not in {"", "\n"} for command in commands
        ):
            raise SpecError.of(
                where,
                [
                    f"{where}: starts no QEMU: no command names one (qemu-system-…, qemu-kvm) and gives it options"
                ],
            )
        found = [[word for command in commands for word in command.words]]
    words = [word for some in found for word in some]
    problems = list(_unknown(words, where))
    if problems:
        raise SpecError.of(where, problems)
    return [word.text for word in words]


def _arguments(command: Command) -> list[Word] | None:
    """Return the words from a QEMU's name on; None where the command starts none."""
    for at, word in enumerate(command.words):
        rest = [other.text for other in command.words[at + 1 :]]
        named = _PROGRAM.fullmatch(word.text) or (word.text == "kvm" and at == 0)
        maybe = word.unknown and not word.text.startswith("-") and "=" not in word.text
        if named and any(other.startswith("-") for other in rest) and _ASKING.isdisjoint(rest):
            return list(command.words[at:])
        if maybe and not _TELLING.isdisjoint(rest):
            return [Word(text=word.text, line=word.line), *command.words[at + 1 :]]
    return None


def _unknown(words: Sequence[Word], where: str) -> list[str]:
    """What only a shell knows, where it matters."""
    found = []
    values = set()
    for option in options([word.text for word in words]):
        word = words[option.at]
        if word.unknown:
            found.append((word, "an option"))
        if option.value is None:
            continue
        values.add(option.at + 1)
        value = words[option.at + 1]
        kinds = {"object": _OBJECTS, "device": _DEVICES}.get(option.name)
        matters = option.name in READ and (kinds is None or value.text.startswith(kinds))
        if value.unknown and matters:
            found.append((value, f"-{option.name}"))
        values.add(option.at)
    found += [
        (word, "a word that may be options")
        for at, word in enumerate(words)
        if word.unknown and at not in values and not word.text.startswith("-")
    ]
    found.sort(key=lambda one: one[0].line)
    return [
        f"{where}:{word.line}: {what}: {shown(word.unknown)} is known to a shell only; write what it stands for"
        for word, what in found
    ]
