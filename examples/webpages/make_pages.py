"""Makes the raw pages of this example: articles buried in what the web puts round them.

    python examples/webpages/make_pages.py examples/data/raw-pages

Needs opencc. Every kind of noise here was met on real pages; the words are ours.
"""

import random
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from articles import ARTICLES
from opencc import OpenCC

NAVIGATION = [
    "首页 新闻 体育 财经 娱乐 文化 读书 论坛",
    "首页 | 国内 | 国际 | 军事 | 图片 | 视频 | 更多",
    "当前位置: 首页 > 文化 > 诗词 > 正文",
]
HOT = [
    "热门推荐",
    "十大名山排行榜",
    "这五种水果不能一起吃",
    "今年最流行的发型",
    "周末去哪儿玩",
    "下一篇: 春天的花事",
    "上一篇: 冬天的炉火",
]
SPAM = [
    "澳门金沙娱乐城 百家乐 老虎机 注册送彩金 六合彩开奖 时时彩投注平台",
    "代开发票_办证刻章_高仿手表_加微信免费领取_刷单日结_无抵押秒到账",
    "彩票开奖|博彩公司大全|棋牌游戏下载|捕鱼达人充值返利|真人投注",
    "想要日结兼职吗？加微信注册送五十元，刷单秒到账？",
]
FOOTER = [
    "责任编辑: 小方",
    "本站文章均来自网络，如有侵权请联系我们删除。",
    "Copyright © 2019-2025 某某文化网 版权所有 某ICP备00000000号-1",
    "分享到: 微信 微博 空间 | 扫码关注公众号 | 点击下载APP",
]
ENGLISH_FOOTER = [
    "Share this on social media | Follow us",
    "Subscribe to our newsletter",
    "Copyright © 2024. All Rights Reserved.",
    "We use cookies to improve your experience. By continuing you accept our privacy policy.",
]
COMMENT = "欢迎各位读者在下方留言，说出你的看法，我们会从中选出十位送上小礼物。"
# What converters leave behind: the pinyin of a character that they changed, in brackets after it.
PINYIN = {
    "這": "zhè",
    "個": "gè",
    "們": "men",
    "來": "lái",
    "時": "shí",
    "說": "shuō",
    "為": "wèi",
    "過": "guò",
    "長": "cháng",
    "開": "kāi",
    "門": "mén",
    "見": "jiàn",
    "馬": "mǎ",
    "風": "fēng",
    "東": "dōng",
    "車": "chē",
    "書": "shū",
    "詩": "shī",
    "聲": "shēng",
    "將": "jiāng",
    "會": "huì",
    "還": "hái",
    "麼": "me",
    "裡": "lǐ",
    "裏": "lǐ",
    "無": "wú",
    "氣": "qì",
    "讀": "dú",
    "寫": "xiě",
    "遠": "yuǎn",
    "親": "qīn",
    "點": "diǎn",
    "頭": "tóu",
    "樣": "yàng",
    "關": "guān",
    "邊": "biān",
    "兒": "ér",
    "動": "dòng",
    "從": "cóng",
    "當": "dāng",
    "對": "duì",
    "發": "fā",
    "給": "gěi",
    "後": "hòu",
    "話": "huà",
    "間": "jiān",
    "經": "jīng",
    "聽": "tīng",
    "問": "wèn",
    "現": "xiàn",
    "與": "yǔ",
    "種": "zhǒng",
    "條": "tiáo",
    "紙": "zhǐ",
}


@cache
def _converter(way: str) -> OpenCC:
    return OpenCC(way)


def simplified(text: str) -> str:
    """A text after the way to traditional characters and back, which some do not survive."""
    return str(_converter("t2s").convert(_converter("s2t").convert(text)))


def spliced(text: str) -> str:
    """Traditional characters, with pinyin behind many of them."""
    traditional = _converter("s2t").convert(text)
    return "".join(
        f"{character}({PINYIN[character]})" if character in PINYIN else character for character in traditional
    )


def destroyed(text: str, draw: random.Random) -> str:
    """A paragraph of which a converter has eaten every other character."""
    strange = "藗兊袊嚻蘤檒鑾鼊龗爩虋癵籲讟驫"
    return "".join(
        draw.choice(strange) if draw.random() < 0.5 and "一" <= character <= "鿿" else character
        for character in text
    )


def page(
    title: str, paragraphs: list[str], top: list[str], bottom: list[str], *, language: str = "zh"
) -> str:
    """HTML as it comes off the wire."""
    block = "".join(f'<div class="nav"><a href="#">{line}</a></div>\n' for line in top)
    end = "".join(f"<p>{line}</p>\n" for line in bottom)
    body = "".join(f"<p>&nbsp;&nbsp;{paragraph}</p>\n" for paragraph in paragraphs)
    return (
        f'<!DOCTYPE html>\n<html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>\n'
        "<style>.nav{color:red;margin:0}</style>"
        "<script>var id=1; function go(){document.write('x')}</script></head>\n"
        f"<body>\n<!-- top -->{block}<h1>{title}</h1>\n{body}{end}"
        "<script>window.stat={page:1};</script></body></html>\n"
    )


def ordinary(draw: random.Random) -> Iterator[tuple[str, str]]:
    """Every article once, among navigation and teasers; every second one with spam above it."""
    chinese = [key for key, (title, _) in ARTICLES.items() if "一" <= title[0] <= "鿿"]
    for number, key in enumerate(chinese):
        spam = [SPAM[number % 4], SPAM[(number + 1) % 4]] if number % 2 else []
        bottom = [*draw.sample(HOT, 4), COMMENT, *FOOTER]
        yield f"{number:02d}-{key}.html", page(*ARTICLES[key], [NAVIGATION[0], NAVIGATION[2], *spam], bottom)
    for key in ("cleaning", "trains"):
        top = ["Home | News | Sport | Culture | About | Contact", "Home > Blog > Article"]
        yield f"en-{key}.html", page(*ARTICLES[key], top, ENGLISH_FOOTER, language="en")


def copies() -> Iterator[tuple[str, str]]:
    """One article again: elsewhere word for word, and once more with a few words changed."""
    title, paragraphs = ARTICLES["printing"]
    yield "copy-exact.html", page(title, paragraphs, [NAVIGATION[1]], [COMMENT, *FOOTER])
    edited = [text.replace("许多种样子", "很多种样子").replace("集市上", "市集上") for text in paragraphs]
    yield "copy-near.html", page(title, edited, [NAVIGATION[1], SPAM[2]], [*HOT[:3], *FOOTER])


def hacked(draw: random.Random) -> Iterator[tuple[str, str]]:
    """Traditional characters with pinyin spliced in, spam at both ends; and one destroyed."""
    for key in ("tea", "canal"):
        title, paragraphs = ARTICLES[key]
        extra = [f"{paragraph[:-1]}，这是旧日志里记下的话。" for paragraph in ARTICLES["abacus"][1][:1]]
        texts = [spliced(paragraph) for paragraph in [*paragraphs[::-1], *extra]]
        yield f"hacked-{key}.html", page(spliced(title), texts, SPAM, [*SPAM[::-1], *FOOTER])
    broken = [destroyed(paragraph, draw) for paragraph in ARTICLES["moon"][1]]
    yield "hacked-destroyed.html", page("月", broken, SPAM[:2], FOOTER)


def worthless() -> Iterator[tuple[str, str]]:
    """Nothing but spam, nothing but links, a language nobody asked for; and a note with wide letters."""
    yield "spam-only.html", page("彩票开奖", SPAM * 3, NAVIGATION, FOOTER)
    yield "links-only.html", page("网站地图", HOT, NAVIGATION, FOOTER)
    french = [
        "Le soir tombait sur la rivière et les bateliers rentraient lentement vers le village, sans parler.",
        "Personne ne savait encore que le pont serait fermé le lendemain, ni pour combien de temps.",
    ]
    top = ["Accueil | Actualités | Culture | Contact"]
    yield "fr-river.html", page("La rivière", french, top, [], language="fr")
    wide = (
        "ＡＩ模型在２０２５年也开始学写绝句。\u200b它读过几万首诗，知道第五个字之后要有一个逗号，"
        "却未必知道为什么要停在那里，这一点和初学的人很像。"
    )
    again = wide.replace("绝句", "律诗")[:-1] + "；不过它写得快。"
    yield "note.txt", "\n".join([NAVIGATION[1], SPAM[0], wide, again, FOOTER[2]])


def make(folder: Path) -> None:
    """Writes the pages; the same ones every time."""
    draw = random.Random(7)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (*ordinary(draw), *copies(), *hacked(draw), *worthless()):
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "examples/data/raw-pages"))
