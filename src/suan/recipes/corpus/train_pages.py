"""Pages strung together from seeds, so that it is known which of their lines are the article.

Knows how the web puts furniture round articles: menus and spam above, dates below the title, advertisements
in between, notices and lists of links below. Does not know words; those are the seeds'.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from suan.recipes.corpus.page import Line

_SENTENCE_CHARS = 12


class Source(NamedTuple):
    """Lines to string together: whole sentences, groups of short lines of one kind, and furniture."""

    sentences: Sequence[str]
    lists: Sequence[Sequence[str]]
    furniture: Sequence[Sequence[str]]
    stuffed: Sequence[str]
    glue: bool  # whether a space stands between sentences


class Page(NamedTuple):
    lines: list[Line]
    is_article: list[bool]


def page(draw: random.Random, source: Source) -> Page:
    """One page; a third of them with the links and headings that HTML tells."""
    lines: list[Line] = []
    labels: list[bool] = []
    linked = draw.random() < 1 / 3

    def add(texts: Sequence[str], is_article: bool, link_ratio: float = 0.0) -> None:
        for text in texts:
            lines.append(Line(text, link_ratio if linked and draw.random() < 0.8 else 0.0))
            labels.append(is_article)

    def furnish(most: int, link_ratio: float = 0.0) -> None:
        """Some lines of one kind; under a heading, now and then."""
        kind = draw.choice(source.furniture)
        if linked and draw.random() < 0.3:
            lines.append(Line(draw.choice(kind), is_heading=True))
            labels.append(False)
        add(_some(draw, kind, 1, most), False, link_ratio)

    # What a forum says beside every post.
    refrain = _some(draw, draw.choice(source.furniture), 1, 3) if draw.random() < 0.25 else []
    add(_some(draw, source.stuffed, 0, 2), False, 1.0)
    for _ in range(draw.randint(0, 3)):
        furnish(3, 1.0)
    if draw.random() < 0.7:
        lines.append(Line(_title(draw, source), is_heading=linked))
        labels.append(True)
    add(_some(draw, draw.choice(source.furniture), 0, 2), False)
    for number, block in enumerate(_article(draw, source)):
        add(refrain, False)
        if number and draw.random() < 0.12:
            furnish(2)
        add(block, True)
    for _ in range(draw.randint(1, 7)):
        furnish(5, draw.choice((0.0, 1.0)))
    add(_some(draw, source.stuffed, 0, 2), False, 1.0)
    return Page(lines, labels)


def _some(draw: random.Random, lines: Sequence[str], least: int, most: int) -> list[str]:
    return draw.sample(list(lines), min(len(lines), draw.randint(least, most)))


def _title(draw: random.Random, source: Source) -> str:
    return draw.choice(source.sentences)[:16].rstrip("，。、,. ")


def _article(draw: random.Random, source: Source) -> list[list[str]]:
    """Blocks: paragraphs, lists of lines of one kind or two, headings above either."""
    blocks: list[list[str]] = []
    habit = draw.choice((0.1, 0.3, 0.7))  # some articles are prose, some are lists
    short = draw.random() < 0.25  # and some write no more than a sentence a line
    for _ in range(draw.randint(2, 9)):
        if draw.random() < 0.25:
            blocks.append([_heading(draw, source)])
        if draw.random() < habit:
            kinds = draw.sample(list(source.lists), draw.randint(1, 2))
            blocks.append([line for kind in kinds for line in _some(draw, list(dict.fromkeys(kind)), 2, 8)])
        else:
            paragraphs = draw.randint(1, 3)
            blocks.append([_paragraph(draw, source, 1 if short else 5) for _ in range(paragraphs)])
    return blocks


def _heading(draw: random.Random, source: Source) -> str:
    kind = draw.choice(source.lists)
    return draw.choice(kind)


def _paragraph(draw: random.Random, source: Source, most: int) -> str:
    """Up to `most` sentences; some writers leave the last full stop out, some the commas too."""
    text = (" " if source.glue else "").join(_some(draw, source.sentences, 1, most))
    habit = draw.random()
    if habit < 0.1:
        text = text[:-1]
    return re.sub("[，。]", " ", text) if habit < 0.03 else text


def sentences(lines: Sequence[str]) -> list[str]:
    """Those that can stand in a paragraph."""
    return [line for line in lines if len(line) >= _SENTENCE_CHARS and line.endswith(tuple('。！？.!?”"'))]
