"""Stop strings, kept whatever the engine does: an answer ends before the first of them.

Knows OpenAI's choices. Some engines ignore `stop` (transformers' continuous batching does), and some leave
the string in the answer; after this none can be told from another.
"""

from typing import Any


class Stops:
    """The stop strings of one request, and what each choice holds back because a string may begin there."""

    def __init__(self, asked: Any) -> None:
        given = [asked] if isinstance(asked, str) else asked if isinstance(asked, list) else []
        self._strings = [text for text in given if isinstance(text, str) and text]
        self._held: dict[int, str] = {}
        self._ended: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._strings)

    def ended(self, count: int) -> bool:
        """Whether all of `count` choices met a stop string: there is nothing left to wait for."""
        return len(self._ended) >= count

    def cut(self, choice: Any) -> None:
        """Ends a whole choice before its first stop string."""
        where = _place(choice, "message")
        if where is not None:
            text = where[0][where[1]]
            if (at := self._first(text)) is not None:
                where[0][where[1]] = text[:at]
                choice["finish_reason"] = "stop"

    def pass_on(self, choice: Any) -> bool:
        """Lets a piece through as far as no stop string can begin in it; False when nothing is left of it."""
        if not isinstance(choice, dict):
            return True
        index = choice.get("index", 0)
        if index in self._ended:
            return False
        where = _place(choice, "delta")
        if where is None and not choice.get("finish_reason"):
            return True
        text = self._held.pop(index, "") + (where[0][where[1]] if where else "")
        if (at := self._first(text)) is not None:
            self._ended.add(index)
            choice["finish_reason"] = "stop"
            text = text[:at]
        elif not choice.get("finish_reason"):
            kept = self._may_begin(text)
            self._held[index] = text[len(text) - kept :]
            text = text[: len(text) - kept]
        if where is not None:
            where[0][where[1]] = text
        elif text:
            _put(choice, text)
        return bool(text or choice.get("finish_reason"))

    def _first(self, text: str) -> int | None:
        found = [at for string in self._strings if (at := text.find(string)) >= 0]
        return min(found, default=None)

    def _may_begin(self, text: str) -> int:
        """Length of the longest end of the text that begins a stop string."""
        return max(
            size
            for string in self._strings
            for size in range(min(len(string), len(text) + 1))
            if text.endswith(string[:size])
        )


def _place(choice: Any, message: str) -> tuple[dict[str, Any], str] | None:
    """Where a choice has its text: (the object, its key); None where it has none."""
    if not isinstance(choice, dict):
        return None
    inner = choice.get(message)
    if isinstance(inner, dict):
        return (inner, "content") if isinstance(inner.get("content"), str) else None
    return (choice, "text") if isinstance(choice.get("text"), str) else None


def _put(choice: dict[str, Any], text: str) -> None:
    if isinstance(choice.get("delta"), dict):
        choice["delta"]["content"] = text
    else:
        choice["text"] = text
