"""Retrieval: passages, an index that survives a kill, search by meaning, words and date."""

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tiny_stages import environment, stage_command

from suan.grid.error import Refused
from suan.recipes.index.answers import quote, shared_pairs, sources_text, with_passages
from suan.recipes.index.passages import passages, read_documents, sentences
from suan.recipes.index.store import Builder, Index

DOCUMENTS = [
    {
        "id": "library",
        "text": "青溪县的新图书馆于2026年3月开放。馆长是林晓舟，馆藏四十万册。图书馆每周一闭馆。",
        "source": "青溪日报",
        "date": "2026-03-02",
    },
    {
        "id": "dam",
        "text": "云岭水电站的年发电量为三十二亿千瓦时。电站由八台机组组成，去年全部投产。",
        "source": "云岭新闻",
        "date": "2025-08-11",
    },
    {
        "id": "eggs",
        "text": "番茄炒蛋要先炒鸡蛋再炒番茄。加一点糖味道更好。",
        "source": "家常菜谱",
        "date": "2019-01-01",
    },
    {"id": "old-library", "text": "青溪县的旧图书馆有十万册藏书。", "source": "县志", "date": "1987-05-01"},
]


def write_documents(folder: Path, documents: list[dict[str, Any]] = DOCUMENTS) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join(json.dumps(document, ensure_ascii=False) + "\n" for document in documents)
    (folder / "documents.jsonl").write_text(text, "utf-8")
    return folder


def test_passages_are_whole_sentences_that_overlap() -> None:
    text = "第一句。第二句！“第三句？”第四句没有完"
    assert sentences(text) == ["第一句。", "第二句！", "“第三句？”", "第四句没有完"]
    assert passages(text, longest=13, overlap=1) == [
        "第一句。第二句！",
        "第二句！“第三句？”",
        "“第三句？”第四句没有完",
    ]
    assert "".join(passages("长" * 25, longest=10, overlap=1)) == "长" * 25
    assert passages("", 10, 1) == []


def test_a_document_without_a_source_is_refused(tmp_path: Path) -> None:
    write_documents(tmp_path / "d", [{"id": "x", "text": "没有出处。"}])
    with pytest.raises(Refused, match="source"):
        list(read_documents(tmp_path / "d"))
    with pytest.raises(Refused, match="jsonl"):
        list(read_documents(tmp_path))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, run_stage: Any) -> Index:
    folder = tmp_path_factory.mktemp("index")
    done = run_stage("index", "--input", write_documents(folder / "documents"), "--output", folder / "index")
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "index" / "suan.json").read_text())["results"] == {"passages": 4}
    return Index(folder / "index", threads=1)


@pytest.mark.parametrize(
    ("question", "document"),
    [("西红柿炒鸡蛋怎么做？", "eggs"), ("水电站一年发多少电？", "dam"), ("谁是馆长？", "library")],
)
def test_meaning_and_words_find_the_passage(index: Index, question: str, document: str) -> None:
    assert index.search(question, 2)[0].document == document


def test_what_is_older_than_asked_for_is_not_found(index: Index) -> None:
    both = {passage.document for passage in index.search("青溪县图书馆的藏书", 2)}
    assert both == {"library", "old-library"}
    assert {passage.document for passage in index.search("图书馆藏书", 4, since="2026-01-01")} == {"library"}
    with pytest.raises(Refused, match="last week"):
        index.search("图书馆", 1, since="last week")


def test_the_quotation_holds_the_answer_and_its_source(index: Index) -> None:
    question = "青溪县图书馆的馆长是谁？"
    found = index.search(question, 3)
    text, passage = quote(question, found, index.embedder) or ("", None)
    assert "林晓舟" in text and passage is not None and passage.source == "青溪日报"
    assert quote(question, [], index.embedder) is None
    assert "[1] 青溪日报 2026-03-02" in sources_text(found[:1])
    (system, user) = with_passages([{"role": "user", "content": question}], found)
    assert (
        system["role"] == "system"
        and "[1] " + found[0].text in system["content"]
        and user["content"] == question
    )


def test_shared_pairs_are_a_part_of_the_question() -> None:
    assert shared_pairs("图书馆", "新图书馆") == 1.0 and shared_pairs("图书馆", "水电站") == 0.0
    assert shared_pairs("图", "图") == 0.0


@pytest.mark.slow
def test_a_killed_index_goes_on_where_it_was(tmp_path: Path) -> None:
    many = [
        {
            "id": str(number),
            "text": f"第{number}号公告：会议改到{number % 12 + 1}月。",
            "source": "公告",
            "date": "",
        }
        for number in range(96)
    ]
    env = environment(
        SUAN_INPUT_DOCUMENTS=str(write_documents(tmp_path / "documents", many)),
        SUAN_OUTPUT_INDEX=str(tmp_path / "index"),
        SUAN_CHECKPOINT=str(tmp_path / "checkpoint"),
        SUAN_PROGRESS=str(tmp_path / "progress.jsonl"),
        SUAN_ARGS=json.dumps({"batch_passages": 8}),
    )
    command = stage_command("index", [])
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    progress = tmp_path / "progress.jsonl"
    try:
        end_s = time.monotonic() + 300
        while not (progress.exists() and len(progress.read_text().splitlines()) > 3):
            assert time.monotonic() < end_s and first.poll() is None
            time.sleep(0.01)
        first.send_signal(signal.SIGKILL)
        first.wait(30)
    finally:
        first.kill()
        first.wait()
    before = len(progress.read_text().splitlines())
    again = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert again.returncode == 0, again.stderr
    resumed = json.loads(progress.read_text().splitlines()[before])
    assert 16 <= resumed["step"] < 96 and resumed["step"] % 8 == 0
    built = Builder(tmp_path / "index")
    rows = built._table.to_arrow().to_pylist()
    assert [row["document"] for row in rows] == [document["id"] for document in many], "none twice, none lost"
