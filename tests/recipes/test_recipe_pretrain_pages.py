"""The tutorial pages on tokenizer and pretraining, typed one after the other in one folder."""

import sys
from pathlib import Path

import pytest
from tiny_stages import EXAMPLES

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from test_docs import Reader  # noqa: E402 - a page is read by one reader everywhere


@pytest.mark.slow
def test_the_pages_on_tokenizer_and_pretraining_run(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(EXAMPLES)
    reader = Reader(tmp_path)
    try:
        for page in ("tokenizer", "pretraining"):
            reader.follow(DOCS / "tutorial" / f"{page}.md")
    finally:
        reader.leave()
    assert (tmp_path / "model" / "suan.json").exists() and (tmp_path / "mixture" / "suan.json").exists()
