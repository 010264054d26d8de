"""
A shell's script -> its simple commands, as far as they are known without running it.

Rules (POSIX, Shell Command Language, 2.2 to 2.10; of bash ``&>``, ``|&``, ``<<<`` and ``<( )``):

1. Quotes, backslashes, comments, operators and here-documents are the shell's: a ``#`` begins a comment only where a
   word could begin, a backslash takes a line's end away, also within a word.
2. Nothing is run or looked up. What only a shell knows (``$NAME``, ``$(…)``) stays in the word as it is written, and
   the word says so: whoever needs the word has to refuse it.
3. Words like ``if`` and ``exec`` are words of a command like others.
"""

from __future__ import annotations

import re

import attrs

__all__ = ["Command", "ShellError", "Word", "shell_commands"]

_OPERATOR = re.compile(r"&>>|&>|&&|\|\||\|&|;;|<<<|<<-|<<|>>|>\||<>|>&|<&|[;&|()<>\n]")
_REDIRECTIONS = frozenset({"<", ">", ">>", "<<", "<<-", "<<<", ">|", "<>", ">&", "<&", "&>", "&>>"})
_PLAIN = re.compile(r"[^ \t\r\v\f\n\\'\"`$;&|()<>]+")
_IN_QUOTES = re.compile(r'[^"\\$`]+')
_BLANK = re.compile(r"[ \t\r\v\f]+")
_NAME = re.compile(r"\$(?:[A-Za-z_][A-Za-z0-9_]*|[0-9@*#?$!-])", re.ASCII)
_PAIRS = {"(": ")", "{": "}"}
_DEEPEST = 50


@attrs.frozen(kw_only=True)
class Word:
    """
    A word.

    Attributes:
        text: What the shell makes of it; what only a shell knows as it is written.
        line: The line in which it begins, from 1.
        unknown: The first thing in it that only a shell knows; empty where there is none.
    """

    text: str
    line: int
    unknown: str = ""


@attrs.frozen(kw_only=True)
class Command:
    """
    A simple command, without its redirections.

    Attributes:
        words: Its words, at least one.
        end: The operator that ends it: a line's end, ``;``, ``|`` and so on; empty at the end of the text.
    """

    words: tuple[Word, ...]
    end: str


class ShellError(ValueError):
    """
    A text that no shell reads.

    Args:
        message: What is wrong.
        line: The line, from 1.

    Attributes:
        message: The same.
        line: The same.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.message, self.line = message, line


def shell_commands(text: str) -> list[Command]:
    """
    Take a script apart.

    Args:
        text: It.

    Returns:
        Its commands, in order; not those within ``$(…)``.

    Raises:
        ShellError: A quote or a bracket is not closed.
    """
    return _Script(text).commands()


class _Script:
    def __init__(self, text: str) -> None:
        self.text, self.at, self.line = text, 0, 1
        self._counted = 0
        self._depth = 0
        self._documents: list[tuple[str, bool]] = []  # here-documents that begin behind this line

    def commands(self) -> list[Command]:
        found: list[Command] = []
        words: list[Word] = []
        while self.at < len(self.text):
            self._pass_over()
            match = _OPERATOR.match(self.text, self.at)
            if match is not None:
                self.at = match.end()
                if match[0] in _REDIRECTIONS:
                    self._redirected(match[0], words)
                    continue
                if words:
                    found.append(Command(words=tuple(words), end=match[0]))
                    words = []
                if match[0] == "\n":
                    self._skip_documents()
            elif self.at < len(self.text):
                words.append(self._word())
        if words:
            found.append(Command(words=tuple(words), end=""))
        return found

    def _here(self) -> int:
        """The line of this place; places come in order."""
        self.line += self.text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self.line

    def _pass_over(self) -> None:
        """Blanks, lines that go on, and comments."""
        while self.at < len(self.text):
            blank = _BLANK.match(self.text, self.at)
            if blank is not None:
                self.at = blank.end()
            elif self.text.startswith("\\\n", self.at):
                self.at += 2
            elif self.text[self.at] == "#":
                end = self.text.find("\n", self.at)
                self.at = len(self.text) if end < 0 else end
            else:
                return

    # -- words

    def _word(self) -> Word:
        line, parts, unknown = self._here(), list[str](), ""
        while self.at < len(self.text):
            char = self.text[self.at]
            plain = _PLAIN.match(self.text, self.at)
            if plain is not None:
                parts.append(plain[0])
                self.at = plain.end()
            elif char == "\\":
                parts.append(self._escaped())
            elif char == "'":
                parts.append(self._until("'"))
            elif char == '"' or self.text.startswith('$"', self.at):
                self.at += char == "$"
                quoted, inside = self._quoted()
                parts.append(quoted)
                unknown = unknown or inside
            elif char in "$`":
                part, is_unknown = self._expansion()
                parts.append(part)
                unknown = unknown or (part if is_unknown else "")
            else:
                break  # a blank or an operator
        return Word(text="".join(parts), line=line, unknown=unknown)

    def _escaped(self) -> str:
        char = self.text[self.at + 1 : self.at + 2]
        self.at += 2
        return "" if char == "\n" else char or "\\"

    def _until(self, end: str) -> str:
        """What stands up to a quote; nothing in it means anything."""
        close = self.text.find(end, self.at + 1)
        if close < 0:
            raise ShellError(f"a {end} is not closed", self._here())
        found, self.at = self.text[self.at + 1 : close], close + 1
        return found

    def _quoted(self) -> tuple[str, str]:
        """What stands between double quotes, and the first thing of it that only a shell knows."""
        line, parts, unknown = self._here(), list[str](), ""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ShellError(f"quotes stand in quotes, more than {_DEEPEST} deep", line)
        self.at += 1
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == '"':
                self.at += 1
                self._depth -= 1
                return "".join(parts), unknown
            if char == "\\":
                meant = self.text[self.at + 1 : self.at + 2]
                parts.append("" if meant == "\n" else meant if meant in '$`"\\' else f"\\{meant}")
                self.at += 2
            elif char in "$`":
                part, is_unknown = self._expansion()
                parts.append(part)
                unknown = unknown or (part if is_unknown else "")
            else:
                plain = _IN_QUOTES.match(self.text, self.at)
                assert plain is not None  # at least this character
                parts.append(plain[0])
                self.at = plain.end()
        raise ShellError('a " is not closed', line)

    def _expansion(self) -> tuple[str, bool]:
        """What begins with a dollar or a backquote, as it is written, and whether it stands for something."""
        start = self.at
        if self.text[start] == "`":
            self._until("`")
        elif name := _NAME.match(self.text, start):
            self.at = name.end()
        elif self.text[start + 1 : start + 2] in {"(", "{"}:
            self.at += 1
            self._nested()
        elif self.text.startswith("$'", start):
            self.at += 1
            self._until("'")
        else:
            self.at += 1
            return "$", False
        return self.text[start : self.at], True

    def _nested(self) -> None:
        """Go behind the bracket that closes this one."""
        line, stack = self._here(), list[str]()
        while self.at < len(self.text):
            char = self.text[self.at]
            if char == "\\":
                self.at += 2
            elif char == "'":
                self._until("'")
            elif char == '"':
                self._quoted()
            else:
                self.at += 1
                if char in _PAIRS:
                    stack.append(_PAIRS[char])
                elif stack and char == stack[-1]:
                    stack.pop()
                    if not stack:
                        return
        raise ShellError("a bracket is not closed", line)

    # -- redirections

    def _redirected(self, operator: str, words: list[Word]) -> None:
        """Go behind what a redirection is to; a number right before it is the descriptor's, and no word."""
        before = self.at - len(operator) - 1
        if (
            words
            and operator[0] != "&"
            and self.text[before : before + 1].isdigit()
            and words[-1].text.isdigit()
        ):
            words.pop()
        if operator in {"<", ">"} and self.text.startswith("(", self.at):
            start = self.at - 1
            self._nested()
            source = self.text[start : self.at]
            words.append(Word(text=source, line=self._here(), unknown=source))
            return
        self._pass_over()
        if self.at < len(self.text) and not _OPERATOR.match(self.text, self.at):
            target = self._word()
            if operator in {"<<", "<<-"}:
                self._documents.append((target.text, operator == "<<-"))

    def _skip_documents(self) -> None:
        for end, tabs in self._documents:
            while self.at < len(self.text):
                stop = self.text.find("\n", self.at)
                stop = len(self.text) if stop < 0 else stop
                line = self.text[self.at : stop]
                self.at = min(stop + 1, len(self.text))
                if (line.lstrip("\t") if tabs else line) == end:
                    break
        self._documents.clear()
