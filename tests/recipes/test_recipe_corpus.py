"""What the corpus stage keeps and drops: lines as they stand on real pages."""

import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from opencc import OpenCC
from tiny_stages import EXAMPLES

from suan.recipes.corpus import Args, Ledger, clean_pages, held_out, poem
from suan.recipes.duplicates import exact_duplicates, near_duplicates
from suan.recipes.pages import judge_lines, normal_form, plain_text, split_lines

PROSE = "绝句是最短的格律诗，五言二十个字，七言二十八个字，诗人只能把一个瞬间交给读者。"


def reason(line: str) -> str | None:
    return judge_lines(split_lines(pl.DataFrame({"id": [0], "text": [line]})))["reason"][0]


@pytest.mark.parametrize(
    "line",
    [
        PROSE,
        "“何处是归程？”他问。",
        "他买过一次彩票，没有中，从此再也不提这件事，倒是每天照旧去河边散步看书，过得很安静。",
        "登录之后的第一件事是读完整本手册，"
        + "它讲得很细，从安装到维护，每一步都配有图，也说明了为什么要这样做，" * 4
        + "值得。",
        "The best test of such rules is to read a hundred of the lines that were thrown away.",
        "床前明月光，疑是地上霜。",
    ],
)
def test_prose_is_kept(line: str) -> None:
    assert reason(line) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("首页 新闻 体育 财经 娱乐 文化 读书 论坛", "navigation"),
        ("首页 | 国内 | 国际 | 军事 | 图片 | 更多", "navigation"),
        ("Home > Blog > Culture > Article", "navigation"),
        ("想要日结兼职吗？加微信注册送五十元，刷单秒到账？", "spam"),
        ("彩票开奖|博彩公司大全|棋牌游戏下载", "spam"),
        ("精彩内容：时时彩，六合彩，百家乐，老虎机，应有尽有，欢迎您的到来。", "spam"),
        ("责任编辑: 小方", "boilerplate"),
        ("本站文章均来自网络，如有侵权请联系我们删除。", "boilerplate"),
        ("We use cookies to improve your experience on this site.", "boilerplate"),
        ("window.stat={page:1};", "markup"),
        ("十大名山排行榜", "fragment"),
        ("唐讟銮兊写月亮藗写龗檒骉蘤袊轮爩，檒亮兊銮檒鼊。", "destroyed"),
        ("å¤©æ°”å¾ˆå¥½Ã©Ã¨Ã¢â€™ this was text once.", "destroyed"),
    ],
)
def test_noise_is_dropped_with_its_reason(line: str, why: str) -> None:
    assert reason(line) == why


def test_splices_go_and_brackets_with_meaning_stay() -> None:
    converter = OpenCC("t2s")
    assert normal_form("網(wǎng)易讀(dú)書(shū)很好", converter) == ("网易读书很好", 3)
    assert normal_form("網\uff08wǎng\uff09易", converter) == ("网易", 1)
    assert normal_form("甲(見第三章)乙", converter) == ("甲(见第三章)乙", 0)
    assert normal_form("模型(transformers)很大", None) == ("模型(transformers)很大", 0)


def test_width_is_normal_and_chinese_punctuation_stays() -> None:
    text, _ = normal_form("\uff21\uff29在\u200b\uff12\uff10\uff12\uff15年\uff0c真的吗\uff1f", None)
    assert text == "AI在2025年\uff0c真的吗\uff1f"


def test_html_gives_lines_without_scripts_and_with_entities() -> None:
    head = "<html><head><title>t</title><style>p{}</style></head>"
    page = head + "<p>&nbsp;甲&amp;乙<b>丙</b></p><script>x()</script><p>丁\n戊</p>"
    assert [line.strip() for line in plain_text(page).split("\n") if line.strip()] == ["甲&乙丙", "丁戊"]


def test_duplicates_keep_the_first_and_spare_the_different() -> None:
    other = "大运河把南方的稻米送到北方的都城，一年之中要走好几个月，船工们就在岸上生火做饭。"
    texts = [PROSE, PROSE.replace("，", ","), PROSE.replace("瞬间", "刹那"), other]
    assert exact_duplicates(texts) == {1: 0}
    assert near_duplicates([texts[0], texts[2], texts[3]], threshold=0.7, ngram_chars=4) == {1: 0}


def test_a_sentence_on_three_pages_is_boilerplate_but_a_page_and_its_copies_are_not() -> None:
    notice = "欢迎各位读者说出自己的看法，我们会从中选出十位送上小礼物。"
    bodies = [
        "雕版印刷普及以前，书是一本一本抄出来的，抄书的人会疲倦，会看错行，会补上不认识的字。",
        "算盘的好处在于把数字变成了看得见、摸得着的位置，珠子拨上去是加，拨下来是减。",
        "清明之前，山里的茶树刚刚冒出嫩芽，采茶的人天不亮就上山了，雾气很重，衣服都湿透了。",
    ]
    pages = [
        {"source": f"p{index}", "text": f"{body}\n{notice}"}
        for index, body in enumerate([*bodies, bodies[0], bodies[0]])
    ]
    ledger = Ledger()
    kept = clean_pages(pages, Args(min_chars=20), ledger)
    assert [page["text"] for page in kept] == bodies
    assert ledger.counts["line: repeated"] == 3
    assert ledger.counts["page: exact duplicate"] == 2


def test_poems_become_chats_and_broken_verse_does_not() -> None:
    record = {
        "title": "静夜思",
        "author": "李白",
        "form": "五言绝句",
        "lines": ["床前明月光\uff0c疑是地上霜。", "举头望明月\uff0c低头思故乡。"],
    }
    made = poem(record, "写一首{form}\uff1a{title}")
    assert made and made["messages"][0]["content"] == "写一首五言绝句\uff1a静夜思"
    assert made["text"].startswith("《静夜思》李白\n床前明月光")
    assert poem({**record, "lines": ["床前明月光\uff0c疑是。"]}, "") is None
    assert poem({"title": "无"}, "") is None


def test_split_does_not_move_when_the_corpus_grows() -> None:
    texts = [f"第{number}首" for number in range(4000)]
    share = sum(held_out(text, 0.1) for text in texts) / len(texts)
    assert 0.08 < share < 0.12
    assert all(held_out(text, 0.2) for text in texts if held_out(text, 0.1))


def test_the_stage_writes_shards_and_an_account(corpus: Path) -> None:
    report = json.loads((corpus / "report.json").read_text())
    documents = [json.loads(line) for line in (corpus / "train-00000.jsonl").read_text().splitlines()]
    assert report["train_documents"] == len(documents) and report["valid_documents"] > 0
    assert {"text", "source", "lang", "score"} <= documents[0].keys()
    assert report["pages_kept"] == 13 and report["dropped"]["page: language"] == 1
    everything = "".join(document["text"] for document in documents)
    assert not any(spam in everything for spam in ("百家乐", "ICP备", "(shū)", "<p>", "侵权"))
    assert "运河是一张早期的调度网络" in everything  # from the hacked page or the clean one


def test_the_same_input_gives_the_same_bytes(corpus: Path, tmp_path: Path, run_stage) -> None:
    done = run_stage(
        "corpus",
        "--input",
        f"poems={EXAMPLES}/data/tang-poems",
        "--input",
        f"pages={EXAMPLES}/data/raw-pages",
        "--output",
        tmp_path,
        where={"form": ["五言绝句"]},
        max_records=600,
        valid_ratio=0.1,
    )
    assert done.returncode == 0, done.stderr
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {
        f.name: f.read_bytes() for f in corpus.iterdir()
    }


def test_an_empty_folder_is_refused(tmp_path: Path, run_stage) -> None:
    done = run_stage("corpus", "--input", tmp_path, "--output", tmp_path / "out")
    assert done.returncode == 2 and "no_corpus_input" in done.stderr


def test_the_example_pages_are_what_their_script_writes(tmp_path: Path) -> None:
    script = EXAMPLES / "webpages" / "make_pages.py"
    subprocess.run([sys.executable, script, tmp_path], check=True)
    kept = EXAMPLES / "data" / "raw-pages"
    assert {f.name: f.read_bytes() for f in tmp_path.iterdir()} == {
        f.name: f.read_bytes() for f in kept.iterdir()
    }
