"""Rules that take the article out of a raw web page, line by line.

Knows what navigation, stuffed keywords, spliced pinyin and destroyed characters look like. Document filters
made for clean crawls fail here: they keep a hacked page whole, or drop it whole. Everything is a Polars
expression or a plain function of text.
"""

import html
import re
import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl
    from opencc import OpenCC

# Pinyin put in brackets behind each character that a converter changed: 網(wǎng)易. Some fonts write ɡ
# (U+0261) for g.
_PINYIN = "a-zA-Zāáǎàēéěèīíǐìōóǒòūúǔùǖǘǚǜüńňǹɡ"
SPLICE = re.compile(rf"(?<=[㐀-鿿])[(\uff08]([{_PINYIN}]{{1,7}})[)\uff09]")

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff]|[\x00-\x08\x0b\x0c\x0e-\x1f]")
_DROPPED_ELEMENTS = re.compile(
    r"<!--.*?-->|<(script|style|noscript|template|svg|head|iframe|form|select)\b.*?</\1\s*>",
    re.IGNORECASE | re.DOTALL,
)
_BLOCK_TAGS = re.compile(
    r"</?(p|div|li|ul|ol|dl|dt|dd|tr|td|th|table|h[1-6]|br|hr|section|article|header|footer|nav|aside|blockquote|body)\b[^>]*>",
    re.IGNORECASE,
)
_TAGS = re.compile(r"</?[A-Za-z][^>]*>|<![^>]*>|<\?[^>]*>")
# NFKC would turn these into ASCII, and Chinese punctuation is text, not width.
_CHINESE_PUNCTUATION = re.compile(
    "([\uff0c\uff1b\uff1a\uff1f\uff01\uff08\uff09\uff5e\u2026]+)"
)  # ，；：？！（）～…

_SPAM = (
    "博彩|彩票|时时彩|六合彩|娱乐城|百家乐|老虎机|棋牌|捕鱼|投注|下注|开奖|赌场|赌博|赔率|澳门金沙|葡京|情色|成人视频|成人网|裸聊"
    "|三级片|无码|约炮|激情视频|同城交友|代开发票|办证|刻章|私服|外挂|壮阳|刷单|日结|加微信|加QQ|秒到账|无抵押|套现|注册送"
    "|充值返利|代孕|包夜|高仿"
    "|casino|viagra|porn|slot machine|sportsbook|betting|payday loan|escort|jackpot|free bonus|cheap replica"
)
_BOILERPLATE = (
    r"ICP备|公网安备|版权所有|All Rights Reserved|Copyright|©|责任编辑|责编[:\uff1a]|转载请注明"
    r"|侵权|免责声明|网站地图|设为首页|加入收藏"
    r"|上一篇|下一篇|相关阅读|相关推荐|猜你喜欢|热门(推荐|文章|排行)|阅读全文|点击(查看|进入|下载|阅读)|扫码|二维码|关注(我们|公众号)"
    r"|分享到|收藏本|登录|注册账号|下载(APP|客户端)|广告(合作|投放)|联系我们|友情链接|浏览次数|阅读\(\d+\)|发布时间|来源[:\uff1a]"
    r"|(?i:cookie|privacy policy|terms of (use|service)|subscribe to|sign (in|up)|log ?in|newsletter"
    r"|click here|read more|related (posts|articles)|share (this|on)|follow us|leave a (comment|reply)"
    r"|posted (by|on|in)"
    r"|skip to content|back to top)"
)
_SENTENCE_END = "[\u3002\uff01\uff1f\uff1b\u2026!?;.][\u201d\u2019\"'\u300d\u300f\uff09)\\]]*$"
_HAN = r"[㐀-䶿一-鿿]"
_SEPARATORS = "[|\uff5c>»›·•_/\\\\→]|--+"
_CODE = r"function\s*\(|var\s+\w+\s*=|document\.|window\.|\{[^}]*:[^}]*;[^}]*\}|=>|</?\w+"

MIN_LINE_CHARS = 8
LONG_LINE_CHARS = 60


def plain_text(raw: str) -> str:
    """Lines of text in a page: elements without prose gone, block tags as line ends, entities resolved."""
    if not re.search(r"<(html|body|div|p|br|a|span)\b", raw, re.IGNORECASE):
        return html.unescape(raw)
    text = _DROPPED_ELEMENTS.sub("\n", raw)
    # Line ends in HTML source mean nothing; joining Chinese lines with a space would put holes into words.
    text = re.sub(r"(?<=[^\x00-\x7f])\s*\n\s*(?=[^\x00-\x7f<])", "", text).replace("\n", " ")
    return html.unescape(_TAGS.sub("", _BLOCK_TAGS.sub("\n", text)))


def normal_form(text: str, converter: "OpenCC | None") -> tuple[str, int]:
    """(text, splices removed): invisible characters and splices gone, widths normal, then simplified.

    Splices go first: NFKC would unmake the brackets' width, and conversion would change the characters they
    follow.
    """
    text, splices = SPLICE.subn("", _INVISIBLE.sub("", text))
    parts = _CHINESE_PUNCTUATION.split(text)
    parts[::2] = [unicodedata.normalize("NFKC", part) for part in parts[::2]]
    text = "".join(parts)
    return (converter.convert(text) if converter else text), splices


def in_gb2312(character: str) -> bool:
    """Whether a character is among the 6,763 Chinese characters of the national standard of 1980."""
    try:
        character.encode("gb2312")
    except UnicodeEncodeError:
        return False
    return True


def strange_ratio(line: str) -> float:
    """The part of a line's Chinese characters outside GB 2312: prose has few, destroyed text many."""
    han = re.findall(_HAN, line)
    return sum(not in_gb2312(character) for character in han) / len(han) if han else 0.0


def split_lines(pages: "pl.DataFrame") -> "pl.DataFrame":
    """One row a non-empty line: id, number, line. `pages` has id and text."""
    import polars as pl

    return (
        pages.select("id", line=pl.col("text").str.split("\n"))
        .explode("line")
        .with_columns(line=pl.col("line").str.replace_all(r"[ \t\u{3000}\u{a0}]+", " ").str.strip_chars())
        .with_columns(number=pl.int_range(pl.len()).over("id"))
        .filter(pl.col("line") != "")
    )


def judge_lines(lines: "pl.DataFrame", *, strange_limit: float = 0.15) -> "pl.DataFrame":
    """`lines` with `reason`: null, markup, destroyed, spam, navigation, boilerplate or fragment."""
    import polars as pl

    line = pl.col("line")
    length = line.str.len_chars()
    ends = line.str.contains(_SENTENCE_END)
    spam = line.str.count_matches(f"(?i){_SPAM}")
    separators = line.str.count_matches(_SEPARATORS)
    spaces = line.str.count_matches(" ")
    han = line.str.count_matches(_HAN)
    latin_mojibake = line.str.count_matches("Ã.|â€|ï¿½|锟斤拷|烫烫|�")
    stuffed = (spam >= 3) | ((spam >= 2) & (length < LONG_LINE_CHARS)) | ((spam >= 1) & ~ends)
    # Chinese puts no spaces between words, so a line with many holes is a list of links.
    listed = (han > 0) & (spaces >= 3) & (spaces * 12 >= han)
    navigation = ((separators >= 3) & (separators * 16 >= length)) | (
        listed & ~(ends & (length >= LONG_LINE_CHARS))
    )
    short_notice = length < 2 * LONG_LINE_CHARS
    commas = line.str.count_matches("[,\uff0c\u3001]")
    fragment = (length < MIN_LINE_CHARS) | (~ends & ((length < LONG_LINE_CHARS) | (commas == 0)))
    return lines.with_columns(
        strange=line.map_elements(strange_ratio, return_dtype=pl.Float64),
    ).with_columns(
        reason=pl.when(line.str.contains(_CODE))
        .then(pl.lit("markup"))
        .when((pl.col("strange") > strange_limit) | (latin_mojibake >= 2))
        .then(pl.lit("destroyed"))
        .when(stuffed)
        .then(pl.lit("spam"))
        .when(navigation)
        .then(pl.lit("navigation"))
        .when(line.str.contains(_BOILERPLATE) & short_notice)
        .then(pl.lit("boilerplate"))
        .when(fragment)
        .then(pl.lit("fragment"))
        .otherwise(None)
    )


def mark_repeated(lines: "pl.DataFrame", *, documents: int) -> "pl.DataFrame":
    """`lines` where prose that stands in at least so many different pages gets the reason `repeated`.

    Near-duplicate pages must be gone by now, or a page's copies would make its own sentences look like
    boilerplate.
    """
    import polars as pl

    pages = pl.col("id").n_unique().over("line")
    repeated = pl.col("reason").is_null() & (pages >= documents)
    return lines.with_columns(reason=pl.when(repeated).then(pl.lit("repeated")).otherwise(pl.col("reason")))
