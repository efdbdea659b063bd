"""Many texts as one array of code points, so that what is counted or hashed of each is one pass of numpy.

Knows kinds of characters and hashes of character windows. Does not know what any count means.
"""

from collections.abc import Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

KINDS = ("other", "han", "strange", "letter", "digit", "space", "separator", "end", "comma", "mark")
OTHER, HAN, STRANGE, LETTER, DIGIT, SPACE, SEPARATOR, END, COMMA, MARK = range(len(KINDS))
_SEPARATORS = "|｜_»›>·•/\\→¦┊丨"
_ENDS = "。！？；…!?;."
_COMMAS = "，,、：:"
_MARKS = "“”‘’\"'「」『』（）()《》〈〉【】[]—–-"
_PLANES = 0x110000
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that its powers can be undone
_MIX = 0xBF58476D1CE4E5B9


def common_han() -> set[str]:
    """The 6,763 characters of GB 2312 and the 5,401 common ones of Big5: what prose is written with."""
    rows = bytes(range(0xA1, 0xFF))
    mainland = {bytes((high, low)).decode("gb2312", "ignore") for high in range(0xB0, 0xF8) for low in rows}
    tails = (*range(0x40, 0x7F), *rows)
    taiwan = {bytes((high, low)).decode("big5", "ignore") for high in range(0xA4, 0xC7) for low in tails}
    return {character for character in mainland | taiwan if len(character) == 1 and "㐀" <= character <= "鿿"}


@cache
def kind_table() -> "np.ndarray[Any, Any]":
    """Kind of every code point."""
    import numpy as np

    table = np.zeros(_PLANES, np.uint8)
    for first, last in ((0x3400, 0x9FFF), (0x20000, 0x3FFFF)):
        table[first : last + 1] = STRANGE
    table[[ord(character) for character in common_han()]] = HAN
    table[ord("〇")] = HAN
    for code in range(0x3000):
        character = chr(code)
        if character.isalpha():
            table[code] = LETTER
        elif character.isspace():
            table[code] = SPACE
    for first, last in ((0x3041, 0x3100), (0x3105, 0x3130), (0xAC00, 0xD7A4)):  # kana, bopomofo, hangul
        table[first:last] = LETTER
    table[ord("0") : ord("9") + 1] = DIGIT
    for kind, characters in ((SEPARATOR, _SEPARATORS), (END, _ENDS), (COMMA, _COMMAS), (MARK, _MARKS)):
        table[[ord(character) for character in characters]] = kind
    return table


@cache
def fold_table() -> "np.ndarray[Any, Any]":
    """Every code point in lower case, digits as one."""
    table = _lower_table().copy()
    table[ord("0") : ord("9") + 1] = ord("0")
    return table


class Texts:
    """Texts side by side: `codes`, and `offsets` where each begins (one more than there are texts)."""

    def __init__(self, texts: Sequence[str]) -> None:
        import numpy as np

        joined = "".join(texts)
        self.codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
        self.offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, texts), np.int64, len(texts)), out=self.offsets[1:])

    @property
    def kinds(self) -> "np.ndarray[Any, Any]":
        return kind_table()[self.codes]

    def rows(self) -> "np.ndarray[Any, Any]":
        """For every code point, which text it belongs to."""
        import numpy as np

        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def counts(self) -> "np.ndarray[Any, Any]":
        """(texts, kinds): how many characters of each kind."""
        import numpy as np

        texts = len(self.offsets) - 1
        flat = self.rows() * len(KINDS) + self.kinds
        return np.bincount(flat, minlength=texts * len(KINDS)).reshape(texts, len(KINDS))

    def count(self, characters: str) -> "np.ndarray[Any, Any]":
        """For each text, how many of `characters` it has."""
        import numpy as np

        wanted = np.zeros(_PLANES, bool)
        wanted[[ord(character) for character in characters]] = True
        before = np.concatenate(([0], np.cumsum(wanted[self.codes])))
        return np.diff(before[self.offsets])

    def words(self) -> "Texts":
        """The same texts with letters, digits and Chinese characters alone, in lower case."""
        import numpy as np

        word = np.isin(self.kinds, (HAN, STRANGE, LETTER, DIGIT))
        kept = object.__new__(Texts)
        kept.codes = np.where(self.codes < 0x600, _lower_table()[self.codes], self.codes)[word]
        before = np.concatenate(([0], np.cumsum(word)))
        kept.offsets = before[self.offsets]
        return kept

    @cached_property
    def folded(self) -> "Texts":
        """The same texts in lower case, all digits alike."""
        kept = object.__new__(Texts)
        kept.codes, kept.offsets = fold_table()[self.codes], self.offsets
        return kept

    def edged(self) -> "Texts":
        """The same texts with a mark before the first and after the last character."""
        import numpy as np

        texts = len(self.offsets) - 1
        kept = object.__new__(Texts)
        places = np.concatenate((self.offsets[:-1], self.offsets[1:]))
        marks = np.repeat(np.array([2, 3], self.codes.dtype), texts)
        order = np.lexsort((marks == 2, places))  # a text's end stands before the next one's beginning
        kept.codes = np.insert(self.codes, places[order], marks[order])
        kept.offsets = self.offsets + 2 * np.arange(texts + 1)
        return kept

    def windows(self, width: int) -> tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]:
        """(64-bit hashes of all windows of `width` characters, offsets of each text's windows).

        A text shorter than the window is one window of its own length.
        """
        import numpy as np

        size, lengths = len(self.codes), np.diff(self.offsets)
        powers = np.full(size + 1, _MULTIPLIER, np.uint64)
        inverse = np.full(size + 1, pow(_MULTIPLIER, -1, 2**64), np.uint64)
        powers[0] = inverse[0] = 1
        powers, inverse = np.cumprod(powers), np.cumprod(inverse)
        scattered = (self.codes.astype(np.uint64) + np.uint64(0x51ED)) * np.uint64(_MIX)
        scattered ^= scattered >> np.uint64(29)
        sums = np.zeros(size + 1, np.uint64)
        np.cumsum(scattered * powers[:-1], out=sums[1:])
        many = np.where(lengths > 0, np.maximum(1, lengths - width + 1), 0)
        offsets = np.concatenate(([0], np.cumsum(many)))
        row = np.repeat(np.arange(len(many)), many)
        start = self.offsets[:-1][row] + (np.arange(offsets[-1]) - offsets[:-1][row])
        stop = np.minimum(start + width, self.offsets[1:][row])
        hashes = (sums[stop] - sums[start]) * inverse[start]
        hashes ^= hashes >> np.uint64(31)
        hashes *= np.uint64(_MIX)
        return hashes ^ (hashes >> np.uint64(29)), offsets


@cache
def _lower_table() -> "np.ndarray[Any, Any]":
    import numpy as np

    table = np.arange(_PLANES, dtype=np.uint32)
    for code in range(0x600):
        lower = chr(code).lower()
        table[code] = ord(lower) if len(lower) == 1 else code
    return table
