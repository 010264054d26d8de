"""
XML as elements that know their line, read with care.

A document is input: it may have no document type, so that there are no entities to expand and nothing outside it to
fetch. It may not be deeper or larger than any domain. Names keep their prefixes, so that what is not ours is written
back as it was. Comments are children; where one stands in a text, that text goes on behind it.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as ET
from xml.parsers import expat

__all__ = [
    "Element",
    "XmlError",
    "children",
    "content",
    "namespace",
    "parse_xml",
    "set_content",
    "write_xml",
]

MOST_BYTES = 16 << 20
_DEEPEST = 200

Element = ET.Element


class XmlError(ValueError):
    """
    A text that is no XML, or none that is taken.

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


class _Reader:
    """Builds elements; the line of each is in ``lines``."""

    def __init__(self) -> None:
        self.parser = expat.ParserCreate()
        self.builder = ET.TreeBuilder(insert_comments=True)
        self.lines: dict[int, int] = {}
        self._depth = 0
        parser = self.parser
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self.builder.data
        parser.CommentHandler = self._comment
        parser.StartDoctypeDeclHandler = self._refuse
        parser.EntityDeclHandler = self._refuse
        parser.ExternalEntityRefHandler = self._refuse
        parser.SkippedEntityHandler = self._refuse

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise XmlError(
                f"has elements in elements, more than {_DEEPEST} deep", self.parser.CurrentLineNumber
            )
        element = self.builder.start(name, attributes)
        self.lines[id(element)] = self.parser.CurrentLineNumber

    def _end(self, name: str) -> None:
        self._depth -= 1
        self.builder.end(name)

    def _comment(self, text: str) -> None:
        if self._depth:
            self.builder.comment(text)

    def _refuse(self, *_: object) -> int:
        raise XmlError(
            "has a document type or an entity; no domain needs one, and both can name files and grow without end",
            self.parser.CurrentLineNumber,
        )


def parse_xml(data: bytes | str) -> tuple[Element, dict[int, int]]:
    """
    Read a document.

    Args:
        data: It.

    Returns:
        The root, and the line of each element by its ``id``.

    Raises:
        XmlError: It is no XML, has a document type, or is too large.
    """
    if len(data) > MOST_BYTES:
        raise XmlError(f"is larger than {MOST_BYTES >> 20} MiB", 1)
    reader = _Reader()
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise XmlError(expat.ErrorString(error.code), error.lineno) from None
    except (ValueError, UnicodeError) as error:
        if isinstance(error, XmlError):
            raise
        raise XmlError(str(error), 1) from None
    return reader.builder.close(), reader.lines


def write_xml(root: Element) -> str:
    """
    Write a document, two blanks for each level.

    Args:
        root: Its root.

    Returns:
        The text, with a line's end.
    """
    _indent(root, "\n")
    return ET.tostring(root, encoding="unicode") + "\n"


def _indent(element: Element, line: str) -> None:
    """Give the children of an element lines of their own, but where a text stands among them: there blanks count."""
    if not len(element) or content(element).strip():
        return
    element.text = f"{line}  "
    for child in element:
        _indent(child, f"{line}  ")
        child.tail = f"{line}  "
    element[-1].tail = line


def content(element: Element) -> str:
    """
    Say which text an element has.

    Args:
        element: The element.

    Returns:
        Its text, also what stands between and behind its children and comments, without these.
    """
    return "".join([element.text or "", *(child.tail or "" for child in element)])


def set_content(element: Element, text: str) -> None:
    """
    Give an element a text, and nothing else.

    Args:
        element: The element; what it held goes, its comments too, which were said of that.
        text: The text.
    """
    for child in list(element):
        element.remove(child)
    element.text = text


def namespace(element: Element, *around: Element) -> tuple[str | None, str]:
    """
    Say what an element's name means.

    Args:
        element: The element; no comment.
        *around: The elements that it stands in, the innermost first.

    Returns:
        Its namespace, and its name in that; None for a prefix of which nothing is said, empty for no namespace.
    """
    prefix, colon, name = str(element.tag).rpartition(":")
    key = f"xmlns:{prefix}" if colon else "xmlns"
    said = next((one.attrib[key] for one in (element, *around) if key in one.attrib), None if colon else "")
    return said, name


def children(element: Element, name: str) -> Iterator[Element]:
    """
    Go through the children of a name.

    Args:
        element: The element.
        name: The name.

    Yields:
        They, in order.
    """
    yield from (child for child in element if child.tag == name)
