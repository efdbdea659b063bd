"""Hacked pages out of any articles, and how well a cleaner took them apart again.

Knows what was put round an article and so what of the result is noise. The noise itself is in `noise.py`.
"""

import html
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from make_pages import simplified, spliced
from noise import Noise


@dataclass
class Page:
    raw: str
    article: list[str] = field(default_factory=list)  # its lines as written, simplified
    kind: str = ""


def _stuffed(draw: random.Random, words: Sequence[str]) -> str:
    groups = ["".join(draw.choices(words, k=draw.randint(2, 6))) for _ in range(draw.randint(4, 30))]
    return draw.choice("_-|,、 ").join(groups)


def _spam(draw: random.Random, noise: Noise, most: int) -> list[str]:
    ready = draw.sample(list(noise.spam), draw.randint(0, min(most, len(noise.spam))))
    return ready + [_stuffed(draw, noise.words) for _ in range(draw.randint(0, 2))]


def round_about(
    draw: random.Random, noise: Noise, title: str, paragraphs: Sequence[str]
) -> list[tuple[str, str]]:
    """(kind, line) of a page from top to bottom; its own are of the kinds `title` and `article`."""

    def some(kind: str, lines: Sequence[str], least: int, most: int) -> list[tuple[str, str]]:
        return [(kind, line) for line in draw.sample(list(lines), min(len(lines), draw.randint(least, most)))]

    page = [("spam", line) for line in _spam(draw, noise, 3)]
    page += some("navigation", noise.navigation, 1, 3)
    if draw.random() < 0.3:
        page += some("marker", noise.markers, 1, 1) + some("teaser", noise.teasers, 3, 8)
    page += [("title", title)] if title else []
    page += some("fact", noise.facts, 1, 2)
    for number, paragraph in enumerate(paragraphs):
        page.append(("article", paragraph))
        if 0 < number < len(paragraphs) - 1 and draw.random() < 0.08:
            page += some("advertisement", noise.advertisements, 1, 1)
    page += some("footer", noise.footer, 1, 4)
    page += some("marker", noise.markers, 1, 1) + some("teaser", noise.teasers, 3, 10)
    if draw.random() < 0.5:
        page += some("comment", noise.comments, 1, 3)
    page += some("footer", noise.footer, 1, 3)
    return page + [("spam", line) for line in _spam(draw, noise, 2)]


_TAGS = {"spam": "div", "title": "h1", "article": "p", "marker": "h3", "teaser": "li", "navigation": "div"}
_LINKED = ("spam", "navigation", "teaser")


def as_html(draw: random.Random, title: str, lines: Sequence[tuple[str, str]]) -> str:
    """The lines as HTML that says little: half of these sites have no classes worth reading."""
    linked = draw.random() < 0.6
    body = []
    for kind, line in lines:
        tag, text = _TAGS.get(kind, "p"), html.escape(line, quote=False)
        if linked and kind in _LINKED:
            text = f'<a href="/{draw.randrange(9999)}.html">{text}</a>'
        indent = "&nbsp;&nbsp;&nbsp;&nbsp;" if kind == "article" and draw.random() < 0.3 else ""
        body.append(f"<{tag}>{indent}{text}</{tag}>")
    head = f"<html><head><title>{html.escape(title)}_某某网</title><script>var a=1;</script></head>"
    return head + "<body>\n" + "\n".join(body) + "\n<script>count();</script></body></html>"


def hack(draw: random.Random, noise: Noise, title: str, paragraphs: Sequence[str]) -> Page:
    """One raw page: text or HTML; every third one run through a converter that leaves readings behind."""
    lines = round_about(draw, noise, title, paragraphs)
    kind = draw.choice(("text", "text", "html"))
    if draw.random() < 1 / 3 and any("一" <= character <= "鿿" for character in title + paragraphs[0]):
        lines = [(kind, line if kind == "spam" else spliced(line)) for kind, line in lines]
        kind += " spliced"
        paragraphs = [simplified(paragraph) for paragraph in paragraphs]
    if kind.startswith("html"):
        raw = as_html(draw, title, lines)
    else:
        raw = draw.choice(("\n", "\n\n")).join(
            ("　　" + line if line_kind == "article" and draw.random() < 0.3 else line)
            for line_kind, line in lines
        )
    return Page(raw, list(paragraphs), kind)


_NOT_WORDS = re.compile(r"[\W_]+")


def words_of(text: str) -> str:
    return _NOT_WORDS.sub("", text).lower()


def measure(page: Page, title: str, kept: str) -> tuple[int, int, int, int]:
    """(characters of the article, of it kept, characters kept, of them noise); letters and digits alone."""
    whole = words_of("".join(page.article))
    result = words_of(kept)
    found = sum(len(words_of(line)) for line in page.article if words_of(line) in result)
    allowed = whole + "\n" + words_of(title)
    noise = sum(len(words_of(line)) for line in kept.split("\n") if words_of(line) not in allowed)
    return len(whole), found, len(result), noise
