"""Pages strung together from seeds, so that it is known which of their lines are the article.

Knows how the web puts furniture round articles: menus and spam above, dates below the title, advertisements
and lists of links in between, notices below. Does not know words; those are the seeds'.
"""

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from suan.recipes.corpus.page import Line

_SENTENCE_CHARS = 12


class Source(NamedTuple):
    """Lines to string together."""

    sentences: Sequence[str]
    lists: Sequence[Sequence[str]]  # groups of short lines of one kind
    furniture: Sequence[Sequence[str]]
    stuffed: Sequence[str]
    menus: Sequence[Sequence[str]]  # words of menus
    code: Sequence[Sequence[str]]
    glue: bool  # whether a space stands between sentences


class Page(NamedTuple):
    lines: list[Line]
    is_article: list[bool]


class _Writer:
    """Writes a page from top to bottom; a third of them with the links and headings that HTML tells."""

    def __init__(self, draw: random.Random, source: Source) -> None:
        self.draw, self.source = draw, source
        self.page = Page([], [])
        self.linked = draw.random() < 1 / 3

    def add(self, texts: Sequence[str], is_article: bool, link_ratio: float = 0.0) -> None:
        for text in texts:
            self.page.lines.append(
                Line(text, link_ratio if self.linked and self.draw.random() < 0.8 else 0.0)
            )
            self.page.is_article.append(is_article)

    def furnish(self, most: int, link_ratio: float = 0.0) -> None:
        """Some lines of one kind; under a heading, now and then."""
        kind = self.draw.choice(self.source.furniture)
        if self.draw.random() < 0.3:
            heading = self.draw.choice(self.draw.choice(self.source.furniture))
            self.page.lines.append(Line(heading, is_heading=self.linked))
            self.page.is_article.append(False)
        self.add(_some(self.draw, kind, 1, most), False, link_ratio)

    def mixed(self, most: int) -> None:
        """Lines of many kinds, as at the foot of a page."""
        for _ in range(self.draw.randint(0, most)):
            self.add([self.draw.choice(self.draw.choice(self.source.furniture))], False)

    def menu(self) -> None:
        """A menu with a line for each of its words."""
        words = [word for word in self.draw.choice(self.source.menus) if word]
        self.add(_some(self.draw, words, 3, 12), False, 1.0)

    def stuff(self) -> None:
        self.add(_some(self.draw, self.source.stuffed, 0, 2), False, 1.0)


def page(draw: random.Random, source: Source) -> Page:
    """One page; a few are one line and nothing else."""
    writer = _Writer(draw, source)
    alone = draw.random()
    if alone < 0.04:
        writer.add(draw.choice(_article(draw, source))[:1], True)
    elif alone < 0.08:
        writer.add([draw.choice(draw.choice(source.furniture))], False)
    if alone < 0.08:
        return writer.page
    # What a forum says beside every post.
    refrain = _some(draw, draw.choice(source.furniture), 1, 3) if draw.random() < 0.2 else []
    writer.stuff()
    for _ in range(draw.randint(0, 3)):
        writer.furnish(3, 1.0)
    if draw.random() < 0.3:
        writer.menu()
    writer.mixed(2)
    if draw.random() < 0.7:
        writer.page.lines.append(Line(_title(draw, source), is_heading=writer.linked))
        writer.page.is_article.append(True)
    writer.mixed(3)
    interrupted = draw.choice((0.0, 0.1, 0.3))
    for number, block in enumerate(_article(draw, source)):
        writer.add(refrain, False)
        if number and draw.random() < interrupted:
            writer.furnish(draw.choice((1, 1, 3)), draw.choice((0.0, 1.0)))
        writer.add(block, True)
    writer.mixed(4)
    for _ in range(draw.randint(0, 5)):
        writer.furnish(8, draw.choice((0.0, 1.0)))
    writer.mixed(4)
    if draw.random() < 0.1:
        writer.menu()
    writer.stuff()
    return writer.page


def _some(draw: random.Random, lines: Sequence[str], least: int, most: int) -> list[str]:
    return draw.sample(list(lines), min(len(lines), draw.randint(least, most)))


def _title(draw: random.Random, source: Source) -> str:
    return draw.choice(source.sentences)[:16].rstrip("，。、,. ")


def _article(draw: random.Random, source: Source) -> list[list[str]]:
    """Blocks: paragraphs, lists of lines of one kind or two, programs, headings above any of them."""
    blocks: list[list[str]] = []
    habit = draw.choice((0.1, 0.3, 0.7))  # some articles are prose, some are lists
    coded = draw.choice((0.0, 0.0, 0.0, 0.5))
    short = draw.random() < 0.25  # and some write no more than a sentence a line
    for _ in range(draw.choice((draw.randint(1, 2), draw.randint(2, 9), draw.randint(2, 9)))):
        if draw.random() < 0.25:
            blocks.append([_heading(draw, source)])
        if draw.random() < coded:
            blocks.append(_program(draw, source))
        elif draw.random() < habit:
            kinds = draw.sample(list(source.lists), draw.randint(1, 2))
            blocks.append([line for kind in kinds for line in _some(draw, list(dict.fromkeys(kind)), 2, 8)])
        else:
            # Each a block of its own: what is put into pages stands between any two paragraphs.
            blocks += [[_paragraph(draw, source, 1 if short else 5)] for _ in range(draw.randint(1, 3))]
    return blocks


def _heading(draw: random.Random, source: Source) -> str:
    kind = draw.choice(source.lists)
    return draw.choice(kind)


def _program(draw: random.Random, source: Source) -> list[str]:
    """Lines that follow one another."""
    lines = draw.choice(source.code)
    first = draw.randrange(max(1, len(lines) - 3))
    return [line.strip() for line in lines[first : first + draw.randint(3, 14)]]


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
