"""What an evaluation leaves: report.md for people, report.json for programs, scores.jsonl for comparisons."""

import json
from pathlib import Path
from typing import Any

from suan.recipes.runtime import write_json


def table(rows: list[dict[str, Any]], confidence: float) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| task | shots | metric | value | {confidence:.0%} interval | chance | documents |",
        "| --- | ---: | --- | ---: | --- | ---: | ---: |",
    ]
    for row in rows:
        chance = "" if row["chance"] is None else f"{row['chance']:.2f}"
        lines.append(
            f"| {row['task']} | {row['shots']} | {row['metric']} | {row['value']:.4f} "
            f"| {row['low']:.4f} to {row['high']:.4f} | {chance} | {row['documents']} |"
        )
    return "\n".join(lines) + "\n"


def write_report(
    folder: Path, report: dict[str, Any], scores: list[dict[str, Any]], confidence: float
) -> None:
    """Writes all three files."""
    lines = (json.dumps(score, ensure_ascii=False) + "\n" for score in scores)
    (folder / "scores.jsonl").write_text("".join(lines), encoding="utf-8")
    text = f"# Evaluation\n\n{table(report['rows'], confidence)}"
    (folder / "report.md").write_text(text, encoding="utf-8")
    write_json(folder / "report.json", report)
