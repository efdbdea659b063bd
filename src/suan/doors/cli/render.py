"""Plain text for people: tables, moments, money. Needs nothing but Python, so that listing jobs is instant.

Knows widths and colours. Does not know the grid.
"""

import os
import sys
import time
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TextIO

BOLD, DIM, GREEN, RED, YELLOW, CYAN = "1", "2", "32", "31", "33", "36"
PHASE_COLOURS = {"succeeded": GREEN, "failed": RED, "stopped": YELLOW, "placed": CYAN, "waiting": DIM}
MICROYUAN_PER_YUAN = 1_000_000


def paint(text: str, code: str, stream: TextIO | None = None) -> str:
    """`text` in that colour on a terminal, as it is elsewhere and where NO_COLOR is set."""
    out = stream or sys.stdout
    return f"\x1b[{code}m{text}\x1b[0m" if out.isatty() and not os.environ.get("NO_COLOR") else text


def width(text: str) -> int:
    """Columns that the text takes on a terminal; Han characters take two."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def table(
    headings: Sequence[str], rows: Iterable[Sequence[object]], *, right: str = "", marked: int | None = None
) -> str:
    """Lines of aligned columns. `right` names headings whose cells are numbers; row `marked` is shown bold.

    The column headed `phase` is coloured by what it says.
    """
    cells = [[*headings], *([_cell(value) for value in row] for row in rows)]
    widths = [max(width(row[index]) for row in cells) for index in range(len(headings))]
    to_right = [all(word in right.split() for word in heading.split()) for heading in headings]
    lines = []
    for number, row in enumerate(cells):
        padded = [
            " " * (size - width(text)) + text if flush else text + " " * (size - width(text))
            for text, size, flush in zip(row, widths, to_right, strict=True)
        ]
        if "phase" in headings and number:
            index = headings.index("phase")
            padded[index] = paint(padded[index], PHASE_COLOURS.get(row[index], "0"))
        line = "  ".join(padded).rstrip()
        lines.append(paint(line, DIM) if not number else paint(line, BOLD) if number - 1 == marked else line)
    return "\n".join(lines)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "–"
    # what others named must not move the cursor or colour the screen
    return "".join(letter if letter.isprintable() else "�" for letter in str(value))


def clean(text: str) -> str:
    """The text with everything replaced that could drive a terminal, line ends apart."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else "�" for letter in text)


def cny(amount_microyuan: float | None) -> str:
    """A sum in CNY without its sign; what is not zero does not look like it: `0.000312`, `0.0512`."""
    if amount_microyuan is None:
        return "–"
    yuan = amount_microyuan / MICROYUAN_PER_YUAN
    if yuan and abs(yuan) < 0.01:
        return f"{yuan:.6f}"
    return f"{yuan:.4f}" if 0 < abs(yuan) < 1 else f"{yuan:,.2f}"


def moment(at_s: int | None, now_s: float | None = None) -> str:
    """Local time of day, with the date when it is another day's."""
    if at_s is None:
        return "–"
    then, today = time.localtime(at_s), time.localtime(now_s)
    return time.strftime("%H:%M:%S" if then[:3] == today[:3] else "%m-%d %H:%M", then)
