"""The parts of a corpus made one: duplicates and repeated lines across all of them gone, then shards.

Knows what only the whole corpus can tell. Holds 540 bytes a document in memory, not its text. Does not clean.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from suan.recipes.corpus import Args
from suan.recipes.corpus.clean import REPEATED_LINE_CHARS, line_hashes
from suan.recipes.corpus.ledger import Ledger

if TYPE_CHECKING:
    pass

SHARD_RECORDS = 20_000
HISTOGRAM_LENGTHS = (0, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


class Index:
    """What is known of every document without its text, in the order of parts."""

    def __init__(self, files: list[Path]) -> None:
        import numpy as np
        import polars as pl

        from suan.recipes.corpus.duplicates import PERMUTATIONS

        columns = ["is_record", "characters", "fingerprint", "signature", "line_hashes"]
        table = pl.concat([pl.read_parquet(file, columns=columns) for file in files])
        self.is_record = table["is_record"].to_numpy()
        self.characters = table["characters"].to_numpy()
        # A page that quotes a poem is not its duplicate.
        self.fingerprint = table["fingerprint"].to_numpy() ^ self.is_record.astype(np.uint64)
        self.signature = np.frombuffer(b"".join(table["signature"].to_list()), np.uint32).reshape(
            -1, PERMUTATIONS
        )
        self.line_hashes = table["line_hashes"]
        self.kept = np.ones(len(table), bool)
        self.origin: dict[int, int] = {}

    def deduplicate(self, args: Args, ledger: Ledger) -> None:
        """Clears `kept` of whatever says what an earlier document said."""
        import numpy as np

        from suan.recipes.corpus import engines
        from suan.recipes.corpus.duplicates import alike, band_hashes, exact_duplicates, groups

        exact = exact_duplicates(self.fingerprint)
        self._drop(exact, "exact duplicate")
        ledger.stage("no exact duplicates", *self._size())
        places = np.flatnonzero(self.kept)
        signature = self.signature[places]
        bands = band_hashes(signature) ^ self.is_record[places, None].astype(np.uint64)
        found = alike(signature, engines.pairs(args.engine, bands), args.near_threshold)
        near = groups(places[found].tolist())
        self._drop(near, "near duplicate")
        ledger.stage("no near duplicates", *self._size())

    def _drop(self, found: dict[int, int], reason: str) -> None:
        self.kept[list(found)] = False
        self.origin |= found
        self.why = getattr(self, "why", {}) | dict.fromkeys(found, reason)

    def _size(self) -> tuple[int, int]:
        pages = self.kept & ~self.is_record
        return int(pages.sum()), int(self.characters[pages].sum())

    def repeated_lines(self, pages: int) -> set[int]:
        """Hashes of long lines that stand in at least so many of the pages kept.

        Near duplicates must be gone by now, or a page's copies would make its own sentences look like
        boilerplate.
        """
        import numpy as np

        hashes = [
            np.frombuffer(raw, np.uint64)
            for raw, kept in zip(self.line_hashes.to_list(), self.kept.tolist(), strict=True)
            if kept
        ]
        values, counts = np.unique(np.concatenate([np.zeros(0, np.uint64), *hashes]), return_counts=True)
        return set(values[counts >= pages].tolist())


def documents(files: list[Path], index: Index, records: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, document) of every page, or of every record, read a part at a time."""
    import polars as pl

    start = 0
    for file in files:
        table = pl.read_parquet(file, columns=["is_record", "document"])
        for here, (is_record, document) in enumerate(table.rows(), start):
            if is_record == records:
                yield here, json.loads(document)
        start += len(table)


def kept_documents(files: list[Path], index: Index, args: Args, ledger: Ledger) -> Iterator[dict[str, Any]]:
    """Pages, then records, that are no duplicates, without lines that many pages share."""
    repeated = index.repeated_lines(args.repeated_pages)
    for records in (False, True):
        what, many = ("record", 0) if records else ("page", 0)
        for here, document in documents(files, index, records):
            if not index.kept[here]:
                ledger.drop(
                    f"{what}: {index.why[here]}",
                    f"{document['source']}: {document['text']}",
                    len(document["text"]),
                )
                continue
            if not records and not _drop_repeated(document, repeated, args, ledger):
                continue
            if records and args.max_records and many >= args.max_records:
                ledger.drop("record: over max_records", "")
                continue
            many += 1
            yield document
        if not records:
            ledger.stage("kept", many, 0)


def _drop_repeated(document: dict[str, Any], repeated: set[int], args: Args, ledger: Ledger) -> bool:
    """Takes shared lines out of a page; whether enough is left."""
    if repeated and repeated & set(line_hashes(document["text"]).tolist()):
        kept = []
        for line in document["text"].split("\n"):
            if len(line) >= REPEATED_LINE_CHARS and int(line_hashes(line)[0]) in repeated:
                ledger.drop("line: repeated", line, len(line))
            else:
                kept.append(line)
        document["reasons"].append(f"repeated {document['text'].count(chr(10)) + 1 - len(kept)}")
        document["text"] = "\n".join(kept)
        if len(document["text"]) < args.min_chars:
            ledger.drop("page: too short", f"{document['source']}: {document['text']}", len(document["text"]))
            return False
    return True


def held_out(text: str, ratio: float) -> bool:
    """Whether a document is for validation: by its own hash, so that it stays there when the corpus grows."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) < ratio * 2**64


class Shards:
    """Writes documents as `train-*` and `valid`, a shard at a time."""

    def __init__(self, folder: Path, args: Args) -> None:
        self._folder, self._args = folder, args
        self._train: list[dict[str, Any]] = []
        self._valid: list[dict[str, Any]] = []
        self._shards = 0
        self.numbers = {"train_documents": 0, "valid_documents": 0, "characters": 0, "bytes": 0}
        self.lengths = [0] * len(HISTOGRAM_LENGTHS)
        self.scores = [0] * 10
        self.languages: dict[str, int] = {}

    def add(self, document: dict[str, Any]) -> None:
        text = document["text"]
        is_valid = held_out(text, self._args.valid_ratio)
        (self._valid if is_valid else self._train).append(document)
        self.numbers["valid_documents" if is_valid else "train_documents"] += 1
        self.numbers["characters"] += len(text)
        self.numbers["bytes"] += len(text.encode())
        self.lengths[sum(len(text) >= bound for bound in HISTOGRAM_LENGTHS) - 1] += 1
        self.scores[min(9, int(document["score"] * 10))] += 1
        self.languages[document["lang"]] = self.languages.get(document["lang"], 0) + 1
        if len(self._train) >= SHARD_RECORDS:
            self._close_shard()

    def close(self) -> None:
        if self._train or not self._shards:
            self._close_shard()
        self._write("valid", self._valid)

    def _close_shard(self) -> None:
        self._write(f"train-{self._shards:05d}", self._train)
        self._shards += 1
        self._train = []

    def _write(self, name: str, rows: list[dict[str, Any]]) -> None:
        partial = self._folder / f".{name}.tmp"
        if self._args.format == "parquet":
            import polars as pl

            pl.DataFrame(rows, infer_schema_length=None).write_parquet(partial)
        else:
            with partial.open("w", encoding="utf-8") as out:
                out.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        partial.replace(self._folder / f"{name}.{self._args.format}")


def accounts(folder: Path, parts: int) -> Ledger:
    """The accounts of all parts as one."""
    whole = Ledger()
    for number in range(parts):
        whole.add(msgspec.json.decode((folder / f"{number:06d}.json").read_bytes(), type=Ledger))
    return whole
