"""Which lines of a page are its article: rules that give a reason, then the run of lines that reads as one.

Knows lines and their neighbours. Document filters made for clean crawls keep a hacked page whole or drop it
whole; here each line is judged with what stands around it, so that a heading, a verse or an answer of two
words stays with its article, and the same words in a list of links go.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus import lexicon
from suan.recipes.corpus.codes import DIGIT, HAN, LETTER, SEPARATOR, SPACE, STRANGE, Texts
from suan.recipes.corpus.page import Line

if TYPE_CHECKING:
    import numpy as np

REASONS = (
    "kept",
    "markup",
    "destroyed",
    "spam",
    "navigation",
    "boilerplate",
    "counter",
    "aside",
    "off the article",
    "repeated in page",
)
KEPT, MARKUP, DESTROYED, SPAM, NAVIGATION, BOILERPLATE, COUNTER, ASIDE, OFF, REPEATED = range(len(REASONS))

_STRANGE_RATIO = 0.15
_SWITCH = 1.5  # what it costs to leave the article or to come back to it, in log odds
_STRANGER = -0.9  # a short line less likely than this goes although it stands amid the article
_QUOTING = 0.5  # prose of this quality is the article's and no notice
_PROGRAM = 0.08  # this part of a line in signs, and it is no prose
_NO_TITLE = -4.0
_TITLE_LINES = 8
_TITLE_OVERLAP = 0.5


class Judged:
    """Lines of many pages with what the rules and the classifier say of each."""

    def __init__(
        self,
        lines: Sequence[Line],
        stops: Sequence[int] = (),
        quality: "np.ndarray[Any, Any] | None" = None,
    ) -> None:
        """`stops` tells for each page the number of lines up to its end; without it all are one page."""
        import numpy as np

        from suan.recipes.corpus.quality import log_odds

        self.texts = [line.text for line in lines]
        stops = stops or [len(lines)]
        self.page = np.repeat(np.arange(len(stops)), np.diff(stops, prepend=0))
        self.codes = Texts(self.texts)
        counts = self.codes.counts()
        self.length = np.maximum(1, counts.sum(1))
        self.han = counts[:, HAN] + counts[:, STRANGE]
        self.counts = counts
        # What a Chinese character says takes about three Latin letters.
        self.size = np.where(self.han * 3 > self.length, self.length, self.length / 3)
        self.link = np.array([line.link_ratio for line in lines])
        self.aside = np.array([line.is_aside for line in lines], bool)
        self.heading = np.array([line.is_heading for line in lines], bool)
        # What programs are written with, and prose is not.
        self.symbols = self.codes.count("{}()[]<>=+*/\\$#%&|~^@;_\"'`").astype(float) / self.length
        self.quality = log_odds(self.codes) if quality is None else quality
        self._match()
        # The classifier knows Chinese and English; other languages are for the language rule to judge.
        foreign = (self.han == 0) & (self.is_["accented"] * 120 > self.length)
        self.read = np.clip(np.where(foreign, np.maximum(0, self.quality), self.quality), -3, 3)
        self.reason = self._reasons()
        self.hard = self.reason != KEPT

    @cached_property
    def evidence(self) -> "np.ndarray[Any, Any]":
        """For every line, the log odds that it stands inside the article."""
        import numpy as np

        from suan.recipes.corpus.evidence import log_odds

        # A line without words goes with those around it.
        odds = np.where(self.said == 0, 0.0, log_odds(self))
        return np.where(self.is_["marker"], -6.0, np.where(self.hard, -1.0, odds))

    def _match(self) -> None:
        import numpy as np
        import polars as pl

        line = pl.col("line")
        spam, innocent = pl.lit(lexicon.SPAM), pl.lit(lexicon.INNOCENT)
        matched = pl.DataFrame({"line": self.texts}, schema={"line": pl.String}).select(
            spam=line.str.extract_all(spam).list.join("").str.len_chars(),
            hits=line.str.count_matches(spam),
            innocent=line.str.count_matches(innocent),
            **{
                name: line.str.contains(pattern)
                for name, pattern in (
                    ("ends", lexicon.SENTENCE_END),
                    ("notice", lexicon.NOTICE),
                    ("marker", lexicon.MARKER),
                    ("counter", lexicon.COUNTER),
                    ("clock", lexicon.CLOCK),
                    ("head", lexicon.DOCUMENT_HEAD),
                    ("numbered", lexicon.NUMBERED),
                    ("speaker", lexicon.SPEAKER),
                    ("code", lexicon.CODE),
                )
            },
            accented=line.str.count_matches(
                r"[\x{c0}-\x{24f}\x{370}-\x{1fff}\x{3040}-\x{30ff}\x{ac00}-\x{d7af}]"
            ),
            listed=line.str.count_matches(lexicon.LISTED),
            mojibake=line.str.count_matches(lexicon.MOJIBAKE),
        )
        self.is_ = {name: matched[name].to_numpy() for name in matched.columns}
        self.prose = self.is_["ends"] & (self.size >= 20) & (self.is_["listed"] * 10 < self.length)
        self.is_["spam_ratio"] = self.is_["spam"] / np.maximum(1, self.length - self.counts[:, SPACE])

    def _reasons(self) -> "np.ndarray[Any, Any]":
        import numpy as np

        is_, size, length = self.is_, self.size, self.length
        telling = is_["hits"] - is_["innocent"]
        spam = (
            ((is_["spam_ratio"] >= 0.25) & (is_["hits"] >= 2) & (telling >= 1))
            | ((is_["spam_ratio"] >= 0.12) & (is_["hits"] >= 3) & (telling >= 1) & (self.quality < 0))
            | (~is_["ends"] & (telling >= 1) & (self.quality < -0.5))
            | ((telling >= 1) & (self.quality < -1.2))
        )
        self.is_script = is_["code"] & (self.han * 4 < length)
        strange = self.counts[:, STRANGE] / np.maximum(1, self.han)
        destroyed = (strange > _STRANGE_RATIO) & (self.han >= 6) & (self.counts[:, STRANGE] >= 2)
        destroyed |= (is_["mojibake"] >= 2) & (is_["mojibake"] * 25 >= length)
        short_notice = is_["notice"] & (size < 90) & ((self.quality < 0.4) | (size < 24))
        self._listings()
        return np.select(
            [
                self.is_script & ~self._is_amid_prose(),
                destroyed,
                spam,
                is_["marker"] | short_notice,
                self.aside & ~(self.prose & (self.link < 0.3) & (self.quality > 1)),
            ],
            [MARKUP, DESTROYED, SPAM, BOILERPLATE, ASIDE],
            KEPT,
        ).astype(np.int8)

    def _is_amid_prose(self) -> "np.ndarray[Any, Any]":
        """Whether prose stands above and below: there a program is quoted, elsewhere it is left over."""
        import numpy as np

        said = self.prose & (self.quality > _QUOTING)
        whole = np.bincount(self.page, said)
        up_to = np.cumsum(said) - (np.cumsum(whole) - whole)[self.page]
        return (up_to - said > 0) & (up_to < whole[self.page])

    def _listings(self) -> None:
        """What looks like a menu or a counter, and may be a table of the article: a hint."""
        is_, size, length, holes = self.is_, self.size, self.length, self.is_["listed"]
        separators = self.counts[:, SEPARATOR]
        listed = (self.han > 0) & (holes >= 3) & (holes * 12 >= self.han) & ~(is_["ends"] & (size >= 60))
        listed &= ~((self.counts[:, LETTER] > self.han) | is_["numbered"] | (self.quality > 0.8))
        navigation = (separators >= 2) & (separators * 14 >= length) & ~is_["ends"] & ~is_["numbered"]
        navigation |= listed & (self.quality < 0.3)
        self.is_navigation = navigation | ((self.link > 0.6) & (self.quality < 0) & ~self.prose)
        counter = is_["counter"] & (self.counts[:, DIGIT] > 0) & (is_["clock"] | (self.quality < -0.5))
        counter |= (is_["clock"] & (size < 50) & (self.quality < 0)) | (is_["head"] & (size < 60))
        self.said = self.counts[:, LETTER] + self.counts[:, DIGIT] + self.han
        self.is_counter = counter

    def outside(self, number: int) -> int:
        """The reason why a line that stands outside the article goes."""
        if self.is_script[number]:
            return MARKUP
        return NAVIGATION if self.is_navigation[number] else COUNTER if self.is_counter[number] else OFF


def article(judged: Judged, first: int, last: int, title: str) -> None:
    """Settles `judged.reason` for the lines of one page, `first` to `last`."""
    here = slice(first, last)
    reason, evidence = judged.reason[here], judged.evidence[here]
    inside = _best_run(evidence.tolist())
    strange = (evidence < _STRANGER) & (judged.size[here] < 60)
    for place, is_inside in enumerate(inside):
        if reason[place] == KEPT and (not is_inside or strange[place]):
            number = first + place
            reason[place] = judged.outside(number)
    _drop_repeated(judged, first, last)
    _add_title(judged, first, last, title)


def _best_run(evidence: list[float]) -> list[bool]:
    """Whether each line is inside the article: the likeliest path through inside and outside (Viterbi)."""
    inside, outside = -_SWITCH / 2, 0.0
    came_from: list[tuple[bool, bool]] = []
    for odds in evidence:
        stay, enter = inside, outside - _SWITCH
        leave, keep_out = inside - _SWITCH, outside
        came_from.append((stay >= enter, leave > keep_out))
        inside, outside = max(stay, enter) + odds, max(leave, keep_out)
    path, state = [], inside > outside
    for from_inside_in, from_inside_out in reversed(came_from):
        path.append(state)
        state = from_inside_in if state else from_inside_out
    return path[::-1]


def _drop_repeated(judged: Judged, first: int, last: int) -> None:
    """A long line is kept once; a refrain is short, and programs repeat themselves."""
    seen: set[str] = set()
    for here in range(first, last):
        text = judged.texts[here]
        if judged.reason[here] == KEPT and len(text) >= 24 and judged.symbols[here] < _PROGRAM:
            if text in seen:
                judged.reason[here] = REPEATED
            seen.add(text)


def _add_title(judged: Judged, first: int, last: int, title: str) -> None:
    """The heading above the article belongs to it: the line nearest above that says what the article says."""
    reason = judged.reason[first:last]
    kept = [here for here in range(last - first) if reason[here] == KEPT]
    if not kept:
        return
    body = "".join(judged.texts[first + here] for here in kept[:40])
    for here in range(kept[0] - 1, max(-1, kept[0] - 1 - _TITLE_LINES), -1):
        text = judged.texts[first + here]
        if reason[here] not in (OFF, NAVIGATION, COUNTER, ASIDE) or not 3 <= len(text) <= 80:
            continue
        if judged.evidence[first + here] < _NO_TITLE or judged.is_["hits"][first + here] > 1:
            continue
        named = len(text) >= 4 and title.startswith(text)
        if named or (reason[here] == OFF and _overlap(text, body) >= _TITLE_OVERLAP):
            reason[here] = KEPT
            return


def _overlap(text: str, body: str) -> float:
    """The part of a line's character pairs (words, where it is in Latin letters) that the article has."""
    if text.isascii():
        words = [word for word in text.lower().split() if len(word) > 3]
        return sum(word in body.lower() for word in words) / len(words) if len(words) > 1 else 0.0
    pairs = [text[index : index + 2] for index in range(len(text) - 1)]
    return sum(pair in body for pair in pairs) / len(pairs)
