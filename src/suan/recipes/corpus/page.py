"""A page as lines: what stands in a block of its own, and what HTML says about it.

Knows elements, links and headings. Does not judge lines.
"""

import re
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
_SPACES = re.compile(r"[ \t\xa0\u3000]+")
_WRAPPED = re.compile(r"(?<=[^\x00-\x7f])\s*\n\s*(?=[^\x00-\x7f])")


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
    return _SPACES.sub(" ", text).strip()


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
