"""Documents as rows of tokens: which tokens step N trains on is a function of seed and N alone.

Knows chat and plain rendering, packing and order. Holds no position: resuming needs only the number of the
step. Tokens lie in a file that ranks of a node share; memory holds a few numbers a document.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.runtime import write_json

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_AT_ONCE = 1000  # documents


def write_tokens(
    folder: Path, documents: Iterable[dict[str, Any]], tokenizer: Any, chat_ratio: float
) -> None:
    """Tokenises documents into `folder`, one after another: `tokens.bin`, `ends.npy` and `about.json`."""
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    digest, text_bytes, lengths = hashlib.blake2b(digest_size=16), 0, []
    remaining = iter(documents)
    with (folder / "tokens.bin").open("wb") as out:
        while some := list(itertools.islice(remaining, _AT_ONCE)):
            texts = [render(document, tokenizer, chat_ratio) for document in some]
            encoded = tokenizer(texts, add_special_tokens=False)["input_ids"]
            text_bytes += sum(len(text.encode()) for text in texts)
            lengths += [len(ids) for ids in encoded]
            packed = np.fromiter(itertools.chain.from_iterable(encoded), dtype=np.int32).tobytes()
            digest.update(packed)
            out.write(packed)
    np.save(folder / "ends.npy", np.cumsum(lengths, dtype=np.int64))
    write_json(folder / "about.json", {"bytes": text_bytes, "digest": digest.hexdigest()})


class Documents:
    """What `write_tokens` wrote: tokens, where each document ends, and the bytes of text they stand for."""

    def __init__(self, folder: Path) -> None:
        import numpy as np

        about = json.loads((folder / "about.json").read_text("utf-8"))
        self.bytes: int = about["bytes"]
        # Names exactly these tokens in this order: a checkpoint made from others cannot be resumed.
        self.digest: str = about["digest"]
        self.ends = np.load(folder / "ends.npy")
        file = folder / "tokens.bin"
        empty = np.empty(0, dtype=np.int32)  # an empty file cannot be mapped
        self.tokens = np.memmap(file, dtype=np.int32, mode="r") if file.stat().st_size else empty

    def __len__(self) -> int:
        return len(self.ends)


def render(document: dict[str, Any], tokenizer: Any, chat_ratio: float) -> str:
    """A document as a chat or as plain text, by its own hash, with the mark between documents at its end."""
    messages = document.get("messages")
    place = int.from_bytes(hashlib.blake2b(document["text"].encode(), digest_size=8, person=b"chat").digest())
    if messages and place < chat_ratio * 2**64:
        text: str = tokenizer.apply_chat_template(messages, tokenize=False)
    else:
        text = document["text"]
    return text + str(tokenizer.pad_token)


class Rows:
    """Rows of `length + 1` tokens; each overlaps the next by one, so that every token is predicted once."""

    def __init__(self, documents: Documents, *, length: int, seed: int) -> None:
        self._documents = documents
        self._length = length
        self._seed = seed
        self._epoch = -1
        self.documents = len(documents)
        self.digest = documents.digest
        self.per_epoch = max(0, (len(documents.tokens) - 1) // length)

    def batch(self, step: int, rows: int) -> "npt.NDArray[np.int32]":
        """rows x (length + 1) tokens of a step; every epoch has its own order."""
        import numpy as np

        return np.stack([self._row(step * rows + offset) for offset in range(rows)])

    def _row(self, index: int) -> "npt.NDArray[np.int32]":
        import numpy as np

        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._shuffle(epoch)
        ends, tokens = self._documents.ends, self._documents.tokens
        position, wanted = place * self._length, self._length + 1
        rank = int(np.searchsorted(self._bounds, position, side="right"))
        parts = []
        while wanted:
            document, before = self._order[rank], self._bounds[rank]
            last = min(ends[document], ends[document] - before + position + wanted)
            parts.append(tokens[ends[document] - before + position : last])
            position, wanted, rank = position + len(parts[-1]), wanted - len(parts[-1]), rank + 1
        return np.concatenate(parts)

    def _shuffle(self, epoch: int) -> None:
        """The epoch's order of documents, and where each ends in it."""
        import numpy as np

        ends = self._documents.ends
        lengths = np.diff(ends, prepend=0)
        self._order = np.random.default_rng([self._seed, epoch]).permutation(len(ends))
        self._bounds = np.cumsum(lengths[self._order])
        self._epoch = epoch
