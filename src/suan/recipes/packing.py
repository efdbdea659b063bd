"""Documents as rows of tokens: which tokens step N trains on is a function of seed and N alone.

Knows chat and plain rendering, packing and order. Holds no position: resuming needs only the number of the
step.
"""

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class Documents:
    """Tokenised documents, one after another, with the bytes of text they stand for."""

    def __init__(self, documents: Iterable[dict[str, Any]], tokenizer: Any, chat_ratio: float) -> None:
        import numpy as np

        texts = [render(document, tokenizer, chat_ratio) for document in documents]
        encoded = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        self.bytes = sum(len(text.encode()) for text in texts)
        self.tokens = np.fromiter((token for ids in encoded for token in ids), dtype=np.int32)
        self.ends = np.cumsum([len(ids) for ids in encoded], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def digest(self) -> str:
        """Names exactly these tokens in this order: a checkpoint made from others cannot be resumed."""
        return hashlib.blake2b(self.tokens.tobytes(), digest_size=16).hexdigest()


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
        self._stream = documents.tokens
        self.documents = len(documents)
        self.digest = documents.digest
        self.per_epoch = max(0, (len(documents.tokens) - 1) // length)

    def batch(self, step: int, rows: int) -> "npt.NDArray[np.int32]":
        """rows x (length + 1) tokens of a step; every epoch has its own order."""
        import numpy as np

        return np.stack([self._row(step * rows + offset) for offset in range(rows)])

    def _row(self, index: int) -> "npt.NDArray[np.int32]":
        epoch, place = divmod(index, self.per_epoch)
        if epoch != self._epoch:
            self._stream, self._epoch = self._shuffled(epoch), epoch
        start = place * self._length
        return self._stream[start : start + self._length + 1]

    def _shuffled(self, epoch: int) -> "npt.NDArray[np.int32]":
        import numpy as np

        ends = self._documents.ends
        starts = np.concatenate(([0], ends[:-1]))
        order = np.random.default_rng([self._seed, epoch]).permutation(len(ends))
        return np.concatenate([self._documents.tokens[starts[index] : ends[index]] for index in order])
