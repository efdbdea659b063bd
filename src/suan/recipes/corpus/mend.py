"""Text as its writer meant it: bytes decoded, mojibake, entities, widths and invisible characters mended, and
readings that converters put in brackets after characters taken out.

Knows characters. Does not know lines, pages or what is worth keeping.
"""

import codecs
import html
import re
import unicodedata
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opencc import OpenCC

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_DECLARED = re.compile(rb"""charset\s*=\s*["']?\s*([A-Za-z0-9_-]{2,20})""", re.IGNORECASE)
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\ufff9-\ufffb]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ue000-\uf8ff]"
)
_LINE_ENDS = re.compile("\r\n?|[\u0085\u2028\u2029]")
# A JSON string written into a page as it stood.
_ESCAPED_LINE_END = re.compile(r"(?<![A-Za-z0-9:\\])\\+[rn](?:\\+n)?(?![A-Za-z])")
_ENTITY = re.compile(r"&(?:[A-Za-z]{2,8}|#\d{2,6}|#x[0-9A-Fa-f]{2,6});?")

# Pairs that UTF-8 or GBK read as a Western code page leaves, and UTF-8 read as GBK.
_WESTERN_SUSPECT = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
    "|[\u00a1-\u00ff]{4}"
)
_GBK_SUSPECT = re.compile(
    "["
    + "".join(bytes((lead, trail)).decode("gbk") for lead in range(0xE3, 0xF0) for trail in range(0x80, 0xA1))
    + "锛銆]"
)

_HAN = "\u3400-\u9fff\U00020000-\U0003ffff"
_TONED = "āáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜḿńňǹ"
_READING = rf"[a-zɡü{_TONED}]{{1,7}}"
_INITIALS = [
    "b",
    "p",
    "m",
    "f",
    "d",
    "t",
    "n",
    "l",
    "g",
    "k",
    "h",
    "j",
    "q",
    "x",
    "zh",
    "ch",
    "sh",
    "r",
    "z",
    "c",
    "s",
    "y",
    "w",
]
_FINALS = [
    "a",
    "o",
    "e",
    "i",
    "u",
    "v",
    "ai",
    "ei",
    "ui",
    "ao",
    "ou",
    "iu",
    "ie",
    "ue",
    "ve",
    "er",
    "an",
    "en",
    "in",
    "un",
    "vn",
    "ang",
    "eng",
    "ing",
    "ong",
    "ia",
    "iao",
    "ian",
    "iang",
    "iong",
    "ua",
    "uo",
    "uai",
    "uan",
    "uang",
    "ueng",
    "van",
]
_SYLLABLES = {initial + final for initial in ("", *_INITIALS) for final in _FINALS}
_TONELESS = str.maketrans("ɡü" + _TONED, "gv" + "aaaaeeeeiiiioooouuuuvvvvmnnn")
_OPEN, _CLOSE = r"[(\uff08\[〔【﹙]", r"[)\uff09\]〕】﹚]"
_SPLICE = re.compile(
    rf"(?<=[{_HAN}])\s?{_OPEN}\s*(?P<pinyin>{_READING}(?:[ ,，、/·']{_READING})*)(?P<tone>[1-6]?)\s*{_CLOSE}"
)
_OTHER_READING = re.compile(
    rf"(?<=[{_HAN}])\s?{_OPEN}\s*"
    rf"(?:[\u3105-\u312fˊˇˋ˙ ]{{1,9}}|[\u3041-\u3096\u30a1-\u30faー]{{1,9}})\s*{_CLOSE}"
)
# One bracket of the pair was destroyed.
_HALF_SPLICE = re.compile(
    rf"(?<=[{_HAN}])(?:{_OPEN}(?P<open>[a-zɡü{_TONED}]{{1,7}})(?=[{_HAN}，。、])"
    rf"|(?P<close>[a-zɡü{_TONED}]{{1,7}}){_CLOSE})"
)
_MANY_SPLICES = 3
# What has no tone in speech: one such reading right after its own character is a converter's, not an aside.
_NEUTRAL = frozenset(
    (
        "們men",
        "们men",
        "麼me",
        "么me",
        "嗎ma",
        "吗ma",
        "著zhe",
        "着zhe",
        "裡li",
        "裏li",
        "里li",
        "過guo",
        "过guo",
    )
)


def decode(raw: bytes) -> str:
    """Text of a file of unknown encoding: a byte-order mark, UTF-8, what it declares, GB 18030 or Big5.

    Where UTF-8 fails, whatever gives the most ordinary characters wins.
    """
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return raw.decode(encoding, "replace")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        pass
    declared = match[1].decode().lower() if (match := _DECLARED.search(raw[:4096])) else ""
    tried = ["utf-8", "gb18030", "big5hkscs"]  # UTF-8 with a few broken bytes, such as a cut end, still wins
    if declared and declared not in ("utf-8", "utf8", "gb2312", "gbk"):
        tried.insert(0, declared)
    texts = []
    for encoding in tried:
        try:
            texts.append(raw.decode(encoding, "replace"))
        except LookupError:
            continue
    return max(texts, key=_ordinary)


def _ordinary(text: str) -> float:
    common = _common()
    beyond_ascii = [character for character in text if character > "\x7f"]
    return sum(character in common for character in beyond_ascii) / max(1, len(beyond_ascii))


@cache
def _common() -> frozenset[str]:
    from suan.recipes.corpus.codes import common_han

    return frozenset(common_han() | set("，。、；：？！“”‘’（）《》【】…—　"))


@cache
def _widths() -> dict[int, str | int]:
    """Full-width letters, digits and signs as ASCII; Chinese punctuation is text, not width, and stays."""
    kept = set("，；：？！（）～")
    table: dict[int, str | int] = {
        code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F) if chr(code) not in kept
    }
    table |= {0x3000: " ", 0xA0: " ", 0x202F: " ", 0x205F: " "} | dict.fromkeys(range(0x2000, 0x200B), " ")
    alike = (*range(0xF900, 0xFB00), *range(0xFB00, 0xFB07), *range(0x2E80, 0x2FD6))
    table |= {code: unicodedata.normalize("NFKC", chr(code)) for code in alike}
    return table


def mend(text: str, converter: "OpenCC | None" = None) -> tuple[str, dict[str, int]]:
    """(text, how much of what was mended).

    The order matters: readings follow the characters that a converter wrote, so they go before widths and
    conversion change either.
    """
    mended: dict[str, int] = {}
    for _ in range(2):  # &amp;nbsp; was escaped twice
        if not _ENTITY.search(text):
            break
        text = html.unescape(text)
    if _WESTERN_SUSPECT.search(text) or len(_GBK_SUSPECT.findall(text)) > 1:
        text, mended["lines of mojibake"] = unmojibake(text)
    text, mended["invisible characters"] = _INVISIBLE.subn("", text)
    text, mended["readings in brackets"] = remove_readings(text)
    text = text.translate(_widths())
    return (converter.convert(text) if converter else text), mended


def line_ends(text: str) -> str:
    """`text` with every kind of line end as one, those that were escaped included."""
    text = _LINE_ENDS.sub("\n", text)
    return _ESCAPED_LINE_END.sub("\n", text) if "\\" in text else text


def unmojibake(text: str) -> tuple[str, int]:
    """(text, lines mended): lines that were decoded with the wrong code page, where that can be undone."""
    lines, mended = text.split("\n"), 0
    for number, line in enumerate(lines):
        better = line
        if _WESTERN_SUSPECT.search(line):
            better = _from_western(line)
        elif len(_GBK_SUSPECT.findall(line)) * 8 > len(line):
            better = _recode(line, "gb18030", "utf-8") or line
        if better != line:
            lines[number] = better
            mended += 1
    return "\n".join(lines), mended


def _from_western(line: str) -> str:
    import ftfy

    fixed = ftfy.fix_encoding(line)
    if fixed != line and not _WESTERN_SUSPECT.search(fixed):
        return fixed
    recoded = _recode(line, "cp1252", "gb18030") or _recode(line, "latin-1", "gb18030")
    return recoded if recoded and _ordinary(recoded) > 0.9 else fixed


def _recode(line: str, wrong: str, right: str) -> str:
    """`line` with the code page `wrong` undone; "" where that loses more than a few characters."""
    try:
        raw = line.encode(wrong)
    except UnicodeEncodeError:
        return ""
    text = raw.decode(right, "replace")
    return text if text.count("\ufffd") * 6 <= len(text) and _ordinary(text) >= _ordinary(line) else ""


def remove_readings(text: str) -> tuple[str, int]:
    """(text, how many went): pinyin and other readings in brackets after Chinese characters.

    Syllables with a tone always go. Without one, `們(men)` goes and `模型(men)` stays, but for pages where
    toned ones show a converter at work. `人工智能(AI)` and `(transformers)` are no readings.
    """
    if "(" not in text and "（" not in text and not re.search(_CLOSE, text):
        return text, 0
    toned = sum(_is_toned(match["pinyin"]) for match in _SPLICE.finditer(text))
    removed = 0

    def replaced(match: re.Match[str]) -> str:
        nonlocal removed
        syllables = [part.translate(_TONELESS) for part in re.split("[ ,，、/·']", match["pinyin"])]
        valid = all(part in _SYLLABLES or part in ("m", "n", "ng", "r") for part in syllables)
        sure = (
            _is_toned(match["pinyin"])
            or toned >= _MANY_SPLICES
            or (match["tone"] and len(syllables[0]) > 1)
            or text[match.start() - 1] + match["pinyin"] in _NEUTRAL
        )
        if not (valid and sure):
            return match[0]
        removed += 1
        return ""

    text = _SPLICE.sub(replaced, text)
    text, others = _OTHER_READING.subn("", text)
    if toned >= _MANY_SPLICES:

        def replaced_half(match: re.Match[str]) -> str:
            nonlocal removed
            reading = match["open"] or match["close"]
            if not _is_toned(reading) or reading.translate(_TONELESS) not in _SYLLABLES:
                return match[0]
            removed += 1
            return ""

        text = _HALF_SPLICE.sub(replaced_half, text)
    return text, removed + others


def _is_toned(reading: str) -> bool:
    return any(character in _TONED for character in reading)
