"""Scripts as the shell that is installed reads them; what only it knows is marked."""

from __future__ import annotations

import contextlib
import subprocess

import pytest
from hypothesis import example, given
from hypothesis import strategies as hs

from kvmaff.formats.shell import ShellError, shell_commands


def of_sh(text: str) -> list[str] | None:
    """The words behind ``set --`` as sh has them; None where it refuses the text."""
    script = f"set -- q {text} z\nprintf 'w%s\\0' \"$@\""
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=False, timeout=60)
    return [word[1:].decode() for word in done.stdout.split(b"\0")[:-1]] if done.returncode == 0 else None


@example("web#1 #2")
@example("4,\\\nsockets=2")
@example("\"a\\\n'b\\c\\\"\" 'x\\\n' \\#")
@given(
    hs.lists(hs.sampled_from(["a", "=", ",", "#", " ", "\t", "'", '"', "\\", "\\\n", "\u00a0", "-"])).map(
        "".join
    )
)
def test_words_are_the_shells(text: str) -> None:
    """Quotes, backslashes, lines that go on, comments: the same words, or both refuse."""
    expected = of_sh(text)
    try:
        command, *rest = shell_commands(f"set -- q {text} z")  # a comment ends with its line
    except ShellError:
        assert expected is None
    else:
        assert expected == [word.text for word in command.words[2:]]
        assert not any(word.unknown for one in (command, *rest) for word in one.words)


@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("a b; c&&d|e", [["a", "b"], ["c"], ["d"], ["e"]]),
        ("a b&\nc", [["a", "b"], ["c"]]),
        ("(a;b)||c", [["a"], ["b"], ["c"]]),
        ("a >x 2>&1 3<y b", [["a", "b"]]),
        ("a 2 >x >>y &>z", [["a", "2"]]),
        ("a2>x", [["a2"]]),
        ("cat <<E x\n-name q\nE\nb", [["cat", "x"], ["b"]]),
        ("cat <<-'E F'\n-name q\n\tE F\nb", [["cat"], ["b"]]),
        ("cat <<<word b", [["cat", "b"]]),
        ("a # b; c\nd", [["a"], ["d"]]),
        ("a 'b;c' \"d|e\" f\\&g", [["a", "b;c", "d|e", "f&g"]]),
        ("", []),
        ("\n;# x", []),
    ],
)
def test_commands(text: str, commands: list[list[str]]) -> None:
    """Operators end a command; redirections and here-documents are no words."""
    assert commands == [[word.text for word in command.words] for command in shell_commands(text)]


@pytest.mark.parametrize(
    ("word", "unknown"),
    [
        ("$NAME", "$NAME"),
        ('a${B:-$(c "d)")}e', '${B:-$(c "d)")}'),
        ('"x$1y"', "$1"),
        ("$(a 'b)' c)", "$(a 'b)' c)"),
        ("`a b`", "`a b`"),
        ("$((1 + 2))", "$((1 + 2))"),
        ("$'a b'", "$'a b'"),
        ("'$NAME'", ""),
        ("\\$NAME", ""),
        ('"\\$NAME"', ""),
        ("$", ""),
        ("a$,b", ""),
        ("<(a b)", "<(a b)"),
    ],
)
def test_what_only_a_shell_knows(word: str, unknown: str) -> None:
    """It is one word, as it is written, and says so; what is quoted is known."""
    (command,) = shell_commands(f"x {word} y")
    assert ["x", "y"] == [command.words[0].text, command.words[-1].text]
    (found,) = command.words[1:-1]
    assert unknown == found.unknown
    assert unknown in found.text


def test_lines() -> None:
    """Each word knows where it begins, also behind texts of several lines."""
    text = "a 'b\n\nc' d \\\n  e\n# x\nf \"$(g\n)\" h"
    lines = {word.text[0]: word.line for command in shell_commands(text) for word in command.words}
    assert {"a": 1, "b": 1, "d": 3, "e": 4, "f": 6, "$": 6, "h": 7} == lines


@pytest.mark.parametrize("text", ["a 'b", 'a "b', "a $(b", "a ${b", "a `b", '\n$("$("' * 60])
def test_what_is_not_closed(text: str) -> None:
    """Is refused, and so is what is nested without end."""
    with pytest.raises(ShellError, match="is not closed|deep"):
        shell_commands(text)


@given(hs.text(alphabet="ab '\"\\$`(){}<>&|;#\n\t-="))
def test_any_text(text: str) -> None:
    """Is read or refused."""
    try:
        commands = shell_commands(text)
    except ShellError as error:
        assert 1 <= error.line <= text.count("\n") + 1
        return
    assert all(command.words for command in commands)
    assert all(1 <= word.line <= text.count("\n") + 1 for command in commands for word in command.words)


@pytest.mark.parametrize(
    "piece", ["$(", "'a'", '"$a" ', "\\\n", "a\n", "<<a\n", "`a`", "#\n", "${a}", '"\\a" ']
)
def test_no_text_takes_long(piece: str) -> None:
    """A large script is read or refused; were it quadratic, nobody would wait for it."""
    with contextlib.suppress(ShellError):
        assert isinstance(shell_commands(piece * ((1 << 20) // len(piece))), list)
