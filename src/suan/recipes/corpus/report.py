# ruff: noqa: E501  (markup)
"""The account of a corpus: `report.json` for programs and one page of HTML, plots included, for people.

Knows how to draw bars. Does not know what the reasons mean.
"""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suan.recipes.runtime import write_json

if TYPE_CHECKING:
    from suan.recipes.corpus.assemble import Shards
    from suan.recipes.corpus.ledger import Ledger

_BAR_PX, _LABEL_PX, _WIDTH_PX = 22, 230, 760
_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}"
    "table{border-collapse:collapse;width:100%}td,th{padding:.25rem .5rem;border-bottom:1px solid #ddd;text-align:left;"
    "vertical-align:top}td.n{text-align:right;font-variant-numeric:tabular-nums}li{overflow-wrap:anywhere;color:#555}"
    "svg{max-width:100%}svg text{font:13px system-ui,sans-serif;fill:#222}rect{fill:#3b7dd8}"
    "@media(prefers-color-scheme:dark){body{background:#16181c;color:#ddd}td,th{border-color:#333}li{color:#aaa}svg text{fill:#ddd}}"
)


def write_report(folder: Path, numbers: Mapping[str, Any], ledger: "Ledger", shards: "Shards") -> None:
    """Writes both. The same corpus gives the same bytes."""
    from suan.recipes.corpus.assemble import HISTOGRAM_LENGTHS

    report = {
        **numbers,
        "stages": {
            name: {"documents": documents, "characters": characters}
            for name, (documents, characters) in ledger.stages.items()
        },
        "dropped": dict(sorted(ledger.counts.items())),
        "dropped_characters": dict(sorted(ledger.characters.items())),
        "mended": dict(sorted(ledger.mended.items())),
        "languages": dict(sorted(shards.languages.items())),
        "lengths": {f"{bound}+": many for bound, many in zip(HISTOGRAM_LENGTHS, shards.lengths, strict=True)},
        "scores": {f"{place / 10:.1f}": many for place, many in enumerate(shards.scores)},
        "samples": dict(sorted(ledger.samples.items())),
    }
    write_json(folder / "report.json", report)
    partial = folder / ".report.html.tmp"
    partial.write_text(_page(report), encoding="utf-8")
    partial.replace(folder / "report.html")


def _page(report: dict[str, Any]) -> str:
    stages = {name: value["characters"] for name, value in report["stages"].items() if value["characters"]}
    rows = "".join(
        f"<tr><td>{html.escape(reason)}<td class=n>{many:,}<td class=n>{report['dropped_characters'].get(reason, 0):,}"
        f"<td><ul>{''.join(f'<li>{html.escape(sample)}</li>' for sample in report['samples'].get(reason, ()))}</ul>"
        for reason, many in sorted(report["dropped"].items(), key=lambda item: -item[1])
    )
    head = " · ".join(
        f"{key.replace('_', ' ')} {value:,}" for key, value in report.items() if isinstance(value, int)
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Corpus</title><style>{_STYLE}</style><h1>Corpus</h1>'
        f"<p>{head}</p><h2>What is left after each stage (characters of pages)</h2>{bars(stages)}"
        f"<h2>Dropped</h2>{bars(_largest(report['dropped_characters']))}"
        f"<table><tr><th>reason<th>times<th>characters<th>for example</tr>{rows}</table>"
        f"<h2>Mended and masked</h2>{bars(report['mended'])}"
        f"<h2>Length of documents (characters)</h2>{bars(report['lengths'])}"
        f"<h2>Score of documents</h2>{bars(report['scores'])}<h2>Languages</h2>{bars(report['languages'])}</html>\n"
    )


def _largest(values: Mapping[str, int], many: int = 15) -> dict[str, int]:
    return dict(sorted((item for item in values.items() if item[1]), key=lambda item: -item[1])[:many])


def bars(values: Mapping[str, int]) -> str:
    """Horizontal bars as SVG; "" when there is nothing to draw."""
    if not any(values.values()):
        return ""
    largest, parts = max(values.values()), []
    scale = (_WIDTH_PX - _LABEL_PX - 110) / largest
    for row, (label, value) in enumerate(values.items()):
        top, width = row * _BAR_PX, max(1.0, value * scale) if value else 0
        parts += [
            f'<text x="{_LABEL_PX - 8}" y="{top + 15}" text-anchor="end">{html.escape(label)}</text>',
            f'<rect x="{_LABEL_PX}" y="{top + 4}" width="{width:.1f}" height="14" rx="2"/>',
            f'<text x="{_LABEL_PX + width + 6:.1f}" y="{top + 15}">{value:,}</text>',
        ]
    return _svg(parts, len(values) * _BAR_PX + 6)


def _svg(parts: Sequence[str], height_px: int) -> str:
    return (
        f'<svg viewBox="0 0 {_WIDTH_PX} {height_px}" width="{_WIDTH_PX}" height="{height_px}" role="img">'
        f"{''.join(parts)}</svg>"
    )
