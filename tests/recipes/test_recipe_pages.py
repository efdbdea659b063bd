"""The tutorial pages on corpora, annotation, evaluating, judging, quantising and retrieving, typed as they
stand."""

import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
sys.path.insert(0, str(Path(__file__).parents[1] / "docs"))

from test_docs import Reader  # noqa: E402 - a page is read by one reader everywhere


@pytest.mark.slow
@pytest.mark.parametrize("page", ["evaluation", "blind-test", "quantising", "retrieval"])
def test_a_tutorial_page_runs(page: str, tmp_path: Path, trained: Path, corpus: Path) -> None:
    (tmp_path / "poet").symlink_to(trained / "model")
    (tmp_path / "corpus").symlink_to(corpus)
    reader = Reader(tmp_path)
    try:
        reader.follow(DOCS / "tutorial" / f"{page}.md")
    finally:
        reader.leave()


@pytest.mark.slow
@pytest.mark.parametrize("page", ["corpus", "annotation", "assistant"])
def test_a_tutorial_page_on_data_runs(page: str, tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(DOCS.parent / "examples")
    reader = Reader(tmp_path)
    try:
        reader.follow(DOCS / "tutorial" / f"{page}.md")
    finally:
        reader.leave()
