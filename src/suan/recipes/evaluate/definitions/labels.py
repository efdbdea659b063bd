"""Choices that a template cannot say: labels that only the data name, and idioms put into their gap.

Read by lm-eval from beside the definitions, so it imports nothing of Suan. Paths are relative to the data's
root, which is the working folder.
"""

import functools
import json
from pathlib import Path
from typing import Any

GAP = "#idiom#"


@functools.cache
def _labels(file: str, key: str, root: Path) -> tuple[str, ...]:
    lines = (root / file).read_text("utf-8").splitlines()
    return tuple(sorted({json.loads(line)[key] for line in lines if line.strip()}))


def _of_training(task: str, key: str) -> list[str]:
    return list(_labels(f"{task}/train_few_all.json", key, Path.cwd()))


def csldcp(doc: dict[str, Any]) -> list[str]:
    """The disciplines, sorted."""
    return _of_training("csldcp", "label")


def csldcp_answer(doc: dict[str, Any]) -> int:
    """The discipline's number."""
    return csldcp(doc).index(doc["label"])


def iflytek(doc: dict[str, Any]) -> list[str]:
    """The kinds of app, sorted."""
    return _of_training("iflytek", "label_des")


def iflytek_answer(doc: dict[str, Any]) -> int:
    """The kind's number."""
    return iflytek(doc).index(doc["label_des"])


def chid(doc: dict[str, Any]) -> list[str]:
    """Each idiom in the gap, with what follows."""
    after = doc["content"].split(GAP, 1)[1]
    return [idiom + after for idiom in doc["candidates"]]
