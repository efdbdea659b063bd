"""What the corpus stage keeps and drops: lines as they stand on real pages."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from opencc import OpenCC
from tiny_stages import EXAMPLES

from suan.recipes.corpus import Args
from suan.recipes.corpus.assemble import held_out
from suan.recipes.corpus.clean import clean_pages, language, repetition
from suan.recipes.corpus.codes import Texts
from suan.recipes.corpus.duplicates import exact_duplicates, fingerprints, near_duplicates, sketches
from suan.recipes.corpus.ledger import Ledger
from suan.recipes.corpus.lines import REASONS, Judged, article
from suan.recipes.corpus.mend import decode, mend
from suan.recipes.corpus.page import Line, page_lines, unwrapped
from suan.recipes.corpus.quality import log_odds
from suan.recipes.corpus.records import poem

sys.path.insert(0, str(EXAMPLES / "webpages"))

PROSE = "绝句是最短的格律诗，五言二十个字，七言二十八个字，诗人只能把一个瞬间交给读者。"


def reason(line: str) -> str | None:
    judged = Judged([Line(line)])
    article(judged, 0, 1, "")
    found = REASONS[judged.reason[0]]
    return None if found == "kept" else found


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
        ("十大名山排行榜", "off the article"),
        ("唐讟銮兊写月亮藗写龗檒骉蘤袊轮爩，檒亮兊銮檒鼊。", "destroyed"),
        ("Ã¤Â¸Ã©Ã¨Ã¢â€™Ã¥Â¥ this was text once.", "destroyed"),
    ],
)
def test_noise_is_dropped_with_its_reason(line: str, why: str) -> None:
    assert reason(line) == why


def mended(text: str, converter: OpenCC | None) -> tuple[str, int]:
    text, what = mend(text, converter)
    return text, what["readings in brackets"]


def test_splices_go_and_brackets_with_meaning_stay() -> None:
    converter = OpenCC("t2s")
    assert mended("網(wǎng)易讀(dú)書(shū)很好", converter) == ("网易读书很好", 3)
    assert mended("網\uff08wǎng\uff09易", converter) == ("网易", 1)
    assert mended("甲(見第三章)乙", converter) == ("甲(见第三章)乙", 0)
    assert mended("模型(transformers)很大", None) == ("模型(transformers)很大", 0)


def test_width_is_normal_and_chinese_punctuation_stays() -> None:
    text, _ = mended("\uff21\uff29在\u200b\uff12\uff10\uff12\uff15年\uff0c真的吗\uff1f", None)
    assert text == "AI在2025年\uff0c真的吗\uff1f"


def test_html_gives_lines_without_scripts_and_with_entities() -> None:
    head = "<html><head><title>t</title><style>p{}</style></head>"
    page = head + "<p>&nbsp;甲&amp;乙<b>丙</b></p><script>x()</script><p>丁\n戊</p>"
    lines, title = page_lines(page)
    assert [line.text for line in lines] == ["甲&乙丙", "丁戊"] and title == "t"


def test_duplicates_keep_the_first_and_spare_the_different() -> None:
    other = "大运河把南方的稻米送到北方的都城，一年之中要走好几个月，船工们就在岸上生火做饭。"
    texts = [PROSE, PROSE.replace("，", ","), PROSE.replace("瞬间", "刹那"), other]
    assert exact_duplicates(fingerprints(texts)) == {1: 0}
    assert near_duplicates(sketches([texts[0], texts[2], texts[3]], 4), threshold=0.7) == {1: 0}


def test_a_sentence_on_three_pages_is_boilerplate_but_a_page_and_its_copies_are_not(
    tmp_path: Path, run_stage
) -> None:
    notice = "每一位读到这里的人都可以把自己的看法写下来寄给我们的编辑部。"
    bodies = [
        "雕版印刷普及以前，书是一本一本抄出来的，抄书的人会疲倦，会看错行，会补上不认识的字。",
        "算盘的好处在于把数字变成了看得见、摸得着的位置，珠子拨上去是加，拨下来是减。",
        "清明之前，山里的茶树刚刚冒出嫩芽，采茶的人天不亮就上山了，雾气很重，衣服都湿透了。",
    ]
    (tmp_path / "in").mkdir()
    for number, body in enumerate([*bodies, bodies[0], bodies[0]]):
        (tmp_path / "in" / f"p{number}.txt").write_text(f"{body}\n{notice}", "utf-8")
    done = run_stage(
        "corpus", "--input", tmp_path / "in", "--output", tmp_path / "out", min_chars=20, part_mb=0.0001
    )
    assert done.returncode == 0, done.stderr
    rows = [line for name in ("train-00000", "valid") for line in (tmp_path / "out" / f"{name}.jsonl").open()]
    assert sorted(json.loads(row)["text"] for row in rows) == sorted(bodies)
    dropped = json.loads((tmp_path / "out" / "report.json").read_text())["dropped"]
    assert dropped["line: repeated"] == 3 and dropped["page: exact duplicate"] == 2


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
    assert {"text", "source", "lang", "score", "reasons"} <= documents[0].keys()
    assert report["pages_kept"] == 12 and report["dropped"]["page: language"] == 1
    held = [json.loads(line) for line in (corpus / "valid.jsonl").read_text().splitlines()]
    everything = "".join(document["text"] for document in documents + held)
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


def test_bytes_of_any_code_page_are_read() -> None:
    page = f"<html><head><meta charset=gb2312></head><p>{PROSE}</p>"
    for encoding in ("gb18030", "utf-8", "utf-8-sig", "utf-16"):
        assert PROSE in decode(page.encode(encoding)), encoding
    assert "詩人只能把一個瞬間交給讀者" in decode(
        "詩人只能把一個瞬間交給讀者，絕句是最短的格律詩。".encode("big5")
    )
    assert PROSE in decode(page.replace("gb2312", "utf-8").encode()[:-3] + b"\xe4\xb8" + b"</p>")


@pytest.mark.parametrize(
    ("written", "wrong"),
    [("utf-8", "latin-1"), ("utf-8", "cp1252"), ("gb18030", "latin-1"), ("utf-8", "gb18030")],
)
def test_mojibake_is_undone(written: str, wrong: str) -> None:
    text = "天气很好，我们去河边散步。"
    broken = text.encode(written).decode(wrong, "ignore")
    got, _ = mend(broken)
    same = sum(one == other for one, other in zip(got, text, strict=False))
    assert same >= len(text) - 3, got


@pytest.mark.parametrize(
    "text", ["人工智能(AI)技术", "表(a)所示", "国内生产总值（GDP）", "他姓王(men)", "苹果(apple)公司"]
)
def test_brackets_that_are_no_readings_stay(text: str) -> None:
    assert mended(text, None)[1] == 0


def test_readings_of_every_kind_go() -> None:
    assert mended("國(ɡuó)家(jiā)的人們(men)來(lái)了", None) == ("國家的人們來了", 4)
    assert mended("我們(men)怎麼(me)辦", None) == ("我們怎麼辦", 2)
    assert mended("龟兹（qiū cí）古国", None) == ("龟兹古国", 1)
    assert mended("國(ㄍㄨㄛˊ)家", None) == ("國家", 1)
    assert mended("漢字(かんじ)", None) == ("漢字", 1)
    assert mended("經(jīng)過(guò)內(nèi)藏的訓nèi)練", None)[0] == "經過內藏的訓練"


def test_the_whole_article_is_kept_and_the_rubbish_goes() -> None:
    """On pages with noise that no rule was made from."""
    import random

    from articles import ARTICLES
    from hacked import hack, measure
    from noise import HELD_OUT

    draw, pages, total = random.Random(5), {}, [0, 0, 0, 0]
    dialogue = [
        "“你来了？”她问。",
        "“来了。”",
        "屋里很静，只有钟在走，谁也不知道接下来该说些什么。",
        "“坐吧。”",
    ]
    verse = ["白日依山尽", "黄河入海流", "欲穷千里目", "更上一层楼"]
    chinese = [(title, paragraphs) for title, paragraphs in ARTICLES.values() if not title.isascii()]
    for number in range(24):
        chosen = draw.sample(chinese, 4)
        extra = [[], ["一、缘起"], dialogue, verse][number % 4]
        article = [*chosen[0][1], *extra, *(paragraph for _, more in chosen[1:] for paragraph in more)]
        pages[f"{number}"] = (chosen[0][0], hack(draw, HELD_OUT, chosen[0][0], article))
    rows = [{"text": page.raw, "source": source} for source, (_, page) in pages.items()]
    kept = {document.source: document.text for document in clean_pages(rows, Args(), Ledger())}
    for source, (title, page) in pages.items():
        total = [
            one + other for one, other in zip(total, measure(page, title, kept.get(source, "")), strict=True)
        ]
    article_chars, found, kept_chars, noise = total
    assert found >= 0.98 * article_chars
    assert noise <= 0.02 * kept_chars


def test_articles_of_every_kind_are_kept_among_furniture_that_nobody_has_seen() -> None:
    """Lists, tables, recipes, code, forums: what a rule made for essays would throw away."""
    import random

    from hacked import hack, measure
    from kinds import KINDS, furniture

    pages = {}
    for kind, make in KINDS.items():
        draw = random.Random(kind)
        for number in range(12):
            title, paragraphs = make(draw)
            pages[f"{kind}/{number}"] = (title, hack(draw, furniture(kind), title, paragraphs))
    rows = [{"text": page.raw, "source": source} for source, (_, page) in pages.items()]
    kept = {document.source: document.text for document in clean_pages(rows, Args(), Ledger())}
    total = [0, 0, 0, 0]
    for source, (title, page) in pages.items():
        found = measure(page, title, kept.get(source, ""))
        total = [one + other for one, other in zip(total, found, strict=True)]
    assert total[1] >= 0.98 * total[0]
    assert total[3] <= 0.03 * total[2]


def test_prose_broken_at_a_fixed_width_is_judged_as_paragraphs() -> None:
    from articles import ARTICLES

    _, paragraphs = ARTICLES["canal"]
    broken = [text[start : start + 26] for text in paragraphs for start in range(0, len(text), 26)]
    page = "\n".join(["首页 新闻 体育 财经 娱乐 文化", *broken, "责任编辑：小方", "上一篇：秋天的果园"])
    (document,) = clean_pages([{"text": page, "source": "broken"}], Args(), Ledger())
    assert document.text.split("\n") == broken


def test_only_lines_that_end_where_the_next_word_did_not_fit_are_one() -> None:
    broken = textwrap.wrap("The best test of such rules is to read what was thrown away. " * 6, 66)
    merged = [line.text for line in unwrapped([Line(text) for text in [*broken, "Read more"]])]
    assert merged == ["\n".join(broken), "Read more"]
    verse = ["床前明月光", "疑是地上霜", "举头望明月", "低头思故乡"]
    lists = [PROSE, "一、缘起", PROSE[:20], "二、再说", PROSE + PROSE]
    for texts in (verse, lists):
        assert [line.text for line in unwrapped([Line(text) for text in texts])] == texts


def test_programs_in_a_page_of_text_stay_with_their_article() -> None:
    article = [
        "网页加载完以后，常常要给表单加一段检查，下面是最短的写法。",
        "document.getElementById('order').onsubmit = function () {",
        "  var name = document.getElementById('name').value;",
        "  if (name == '') {",
        "    return false;",
        "  }",
        "};",
        "函数返回假的时候，表单就不会发出去，读者可以在浏览器里试一试。",
    ]
    page = "\n".join(
        ["首页 | 教程 | 论坛 | 下载", *article, "版权所有 未经授权禁止转载", "window.stat={page:1};"]
    )
    (document,) = clean_pages([{"text": page, "source": "code"}], Args(), Ledger())
    assert document.text.split("\n") == [line.strip() for line in article]


def test_the_classifier_tells_prose_from_stuffing() -> None:
    good, bad = log_odds(Texts([PROSE, "国产精品久久久_亚洲无码_在线观看免费"]))
    assert good > 1 and bad < -1


def test_repetition_is_seen() -> None:
    once, often = repetition([PROSE, "买一送一，今天最后一天。" * 12])
    assert once < 0.05 and often > 0.8


def test_languages() -> None:
    assert language(PROSE)[0] == "zh"
    assert language("The best test of such rules is to read the lines that were thrown away.")[0] == "en"
    assert language("夜の電気はなぜ安いのでしょうか。発電した電気はためておけません。")[0] == "ja"
