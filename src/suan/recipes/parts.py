"""Finished parts of a stage, kept in its checkpoint so that a run that was killed goes on after them.

Knows JSON and that a run may die between any two instructions. A part is whole or absent; parts made with
other settings or inputs are not used.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec

from suan.recipes.runtime import write_json


def fingerprint(args: msgspec.Struct, *folders: Path) -> str:
    """What the results depend on: arguments, and the names, sizes and first bytes of the folders' files."""
    digest = hashlib.blake2b(msgspec.json.encode(args), digest_size=16)
    for folder in folders:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            with file.open("rb") as content:
                head = content.read(1 << 16)
            digest.update(f"{file.relative_to(folder)} {file.stat().st_size}".encode() + head)
    return digest.hexdigest()


class Parts:
    """Parts by name in a folder; without a folder nothing is kept."""

    def __init__(self, checkpoint: Path | None, of: str) -> None:
        self._folder = checkpoint / f"parts-{of}" if checkpoint else None

    def get(self, name: str) -> Any:
        """The part as JSON gives it back, or None."""
        file = self._folder / f"{name}.json" if self._folder else None
        return json.loads(file.read_text("utf-8")) if file and file.exists() else None

    def put(self, name: str, value: Any) -> None:
        """Keeps the part."""
        if self._folder:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_json(self._folder / f"{name}.json", value)
