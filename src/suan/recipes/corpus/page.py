"""A page as lines: what stands in a block of its own, and what HTML says about it.

Knows elements, links, headings and lines broken at a fixed width. Does not judge lines.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lxml.etree import _Element

_IS_HTML = re.compile(
    r"<(?:!doctype|html|head|body|div|p|br|table|a|span|li|h[1-6])\b[^<>]{0,2000}>", re.IGNORECASE
)
_XML_DECLARATION = re.compile(r"^\s*<\?xml[^>]*\?>")
_DROPPED = frozenset(
    [
        "script",
        "style",
        "noscript",
        "template",
        "svg",
        "math",
        "iframe",
        "select",
        "option",
        "button",
        "textarea",
        "input",
        "object",
        "embed",
        "video",
        "audio",
        "canvas",
        "map",
        "head",
        "link",
        "meta",
        "dialog",
    ]
)
_BLOCKS = frozenset(
    [
        "p",
        "div",
        "li",
        "ul",
        "ol",
        "dl",
        "dt",
        "dd",
        "tr",
        "td",
        "th",
        "table",
        "tbody",
        "thead",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "br",
        "hr",
        "section",
        "article",
        "header",
        "footer",
        "nav",
        "aside",
        "blockquote",
        "body",
        "main",
        "figure",
        "figcaption",
        "center",
        "form",
        "fieldset",
        "pre",
        "address",
        "details",
        "summary",
        "html",
    ]
)
_ASIDES = frozenset(("nav", "footer", "aside"))
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6"))
_HIDDEN = re.compile(
    r"display\s*:\s*none|visibility\s*:\s*hidden|(?:left|top|text-indent)\s*:\s*-\d{3,}|font-size\s*:\s*0(?![.\d])"
    r"|(?:width|height)\s*:\s*[01]px[^a-z]*overflow\s*:\s*hidden|opacity\s*:\s*0(?![.\d])",
    re.IGNORECASE,
)
_ASIDE_NAMES = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|menu|breadcrumbs?|crumbs?|footer|sidebar|side|copyright|share|related|recommend|hot|rank"
    r"|comments?|friendlinks?|links|pager|pagination|toolbar|advert|ads?|banner|tags)(?:$|[\s_-])",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"(?<=[^\x00-\x7f])\s*\n\s*(?=[^\x00-\x7f])")
_LEAST_CELLS, _MOST_CELLS = 40, 160  # columns that text is broken at; lines of verse are shorter
_LEAST_FULL = 3  # lines that end where the next word would not have fitted, before they are taken for broken
_INDENT_CELLS = 4
_FIRST_WORD = re.compile(r"[!-~]+|.")
_ENDS = frozenset("。！？；…!?.:：”」』")
_NO_BEGINNING = frozenset("，。、；：？！）」』”》】,;)")


class Line(NamedTuple):
    text: str
    link_ratio: float = 0.0  # the part of it that is links
    is_heading: bool = False
    is_aside: bool = False  # in a part of the page that is named after navigation or the like


def page_lines(raw: str) -> tuple[list[Line], str]:
    """(non-empty lines from top to bottom, the page's title if it is HTML and has one)."""
    if not _IS_HTML.search(raw):
        return [Line(line) for text in raw.split("\n") if (line := tidy(text))], ""
    from lxml import etree, html

    try:
        root = html.document_fromstring(_XML_DECLARATION.sub("", raw))
    except (etree.ParserError, ValueError):
        return [], ""
    title = " ".join((root.findtext(".//title") or "").split())
    reader = _Reader()
    reader.walk(root)
    reader.end_line()
    return reader.lines, title


def tidy(text: str) -> str:
    """One line without needless space."""
    return " ".join(text.split())


def unwrapped(lines: Sequence[Line]) -> list[Line]:
    """The lines; those that a fixed width broke are one, their line ends inside, to be judged together."""
    widths = [_cells(line.text) for line in lines]
    column = _column(lines, widths)
    found: list[Line] = []
    for here, line in enumerate(lines):
        broken = here and (column or line.text[0] in _NO_BEGINNING)
        if broken and _goes_on(lines[here - 1], line, widths[here - 1 : here + 1], column):
            found[-1] = found[-1]._replace(text=f"{found[-1].text}\n{line.text}")
        else:
            found.append(line)
    return found


def _goes_on(before: Line, line: Line, widths: Sequence[int], column: int) -> bool:
    """Whether `line` goes on with the sentence or the paragraph of the line before."""
    if (line.is_heading, line.is_aside) != (before.is_heading, before.is_aside):
        return False
    if max(line.link_ratio, before.link_ratio) >= 0.5:
        return False
    has_ended = before.text[-1] in _ENDS
    if line.text[0] in _NO_BEGINNING and not has_ended:
        return True
    is_full = 0 <= column - widths[0] < _room(line.text) + (0 if before.text[0].isascii() else _INDENT_CELLS)
    # Where a paragraph ends with a full line, what follows is as likely something else.
    return bool(column) and is_full and (not has_ended or widths[1] * 4 > column * 3)


def _column(lines: Sequence[Line], widths: Sequence[int]) -> int:
    """Where lines of the page end because the next word would not have fitted; 0 if nowhere."""
    many = Counter(width for width in widths if _LEAST_CELLS <= width <= _MOST_CELLS)
    if sum(many.values()) <= _LEAST_FULL:
        return 0
    near = {width: sum(many[width - less] for less in range(8)) for width in many}
    column = max(near, key=lambda width: (near[width], many[width]))
    full = [
        here
        for here in range(len(lines) - 1)
        if 0 <= column - widths[here] < _room(lines[here + 1].text) and widths[here] >= _LEAST_CELLS
    ]
    wide = sum(width > column for width in widths)
    return column if len(full) >= max(_LEAST_FULL, wide, sum(many.values()) / 2) else 0


def _cells(text: str) -> int:
    """Columns on a screen: two for a Chinese character, which is three bytes of UTF-8."""
    return (len(text) + len(text.encode("utf-8", "replace"))) // 2


def _room(text: str) -> int:
    """What the first word of a line would have taken on the line above."""
    word = _FIRST_WORD.match(text)
    return 2 if word is None or not word[0].isascii() else len(word[0]) + 1


class _Reader:
    """Walks a tree and gathers text up to each block's end."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self._parts: list[str] = []
        self._link_chars = 0
        self._links = self._headings = self._asides = self._kept_spaces = 0

    def walk(self, root: "_Element") -> None:
        """Depth first without recursion: spam pages nest thousands of elements."""
        stack: list[tuple[Any, bool]] = [(root, True)]
        while stack:
            element, opening = stack.pop()
            tag = element.tag
            if not isinstance(tag, str) or (opening and (tag in _DROPPED or self._is_hidden(element))):
                if opening:
                    self._add(element.tail)
                continue
            if not opening:
                self._leave(tag, element)
                self._add(element.tail)
                continue
            self._enter(tag, element)
            stack.append((element, False))
            stack.extend((child, True) for child in reversed(element))

    def _is_hidden(self, element: "_Element") -> bool:
        style = element.get("style")
        return element.get("hidden") is not None or bool(style and _HIDDEN.search(style))

    def _is_aside(self, tag: str, element: "_Element") -> bool:
        if tag in _ASIDES:
            return True
        names = f"{element.get('class') or ''} {element.get('id') or ''}"
        return tag not in ("body", "html") and len(names) > 1 and bool(_ASIDE_NAMES.search(names))

    def _enter(self, tag: str, element: "_Element") -> None:
        if tag in _BLOCKS:
            self.end_line()
            self._headings += tag in _HEADINGS
            self._asides += self._is_aside(tag, element)
            self._kept_spaces += tag == "pre"
        self._links += tag == "a"
        self._add(element.text)

    def _leave(self, tag: str, element: "_Element") -> None:
        if tag in _BLOCKS:
            self.end_line()
            self._headings -= tag in _HEADINGS
            self._asides -= self._is_aside(tag, element)
            self._kept_spaces -= tag == "pre"
        self._links -= tag == "a"
        if tag == "a":
            self._parts.append(" ") if self._parts and self._parts[-1].isascii() else None

    def _add(self, text: str | None) -> None:
        if not text:
            return
        if self._kept_spaces:
            first, *others = text.split("\n")
            for part in others:
                self._take(first)
                self.end_line()
                first = part
            self._take(first)
            return
        # Line ends in HTML mean nothing; joining Chinese lines with a space would put holes into words.
        self._take(_WRAPPED.sub("", text).replace("\n", " ") if "\n" in text else text)

    def _take(self, text: str) -> None:
        self._parts.append(text)
        if self._links:
            self._link_chars += len(text.strip())

    def end_line(self) -> None:
        text = tidy("".join(self._parts))
        if text:
            self.lines.append(
                Line(text, min(1.0, self._link_chars / len(text)), self._headings > 0, self._asides > 0)
            )
        self._parts.clear()
        self._link_chars = 0
