"""Examinations as CSV, one file a subject, read as text: the public files differ in their columns.

Read by lm-eval from beside the definitions, so it imports nothing of Suan. Paths are relative to the data's
root, which is the working folder.
"""

import csv
import glob
from typing import Any

CHOICES = ("A", "B", "C", "D")


def load(data_files: dict[str, str], **_: Any) -> dict[str, Any]:
    """For each split, its questions with `question`, the four choices, `answer` and `subject`."""
    from datasets import Dataset

    return {split: Dataset.from_list(_questions(pattern)) for split, pattern in data_files.items()}


def _questions(pattern: str) -> list[dict[str, str]]:
    found = []
    for file in sorted(glob.glob(pattern)):
        subject = file.rsplit("/", 1)[-1].removesuffix(".csv").removesuffix("_val").removesuffix("_dev")
        with open(file, encoding="utf-8-sig", newline="") as table:
            for row in csv.DictReader(table):
                asked, answer = row.get("question") or row["Question"], row.get("answer") or row["Answer"]
                choices = {choice: row[choice] for choice in CHOICES}
                found.append({"subject": subject, "question": asked, "answer": answer.strip(), **choices})
    return found
