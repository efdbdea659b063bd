"""Draws docs/quickstart.svg from a real run: `make quickstart | tee LOG; python docs/make_picture.py LOG`.

Shows every part of the run and leaves out repetitions, marked by an ellipsis; no line is changed, but for the
name of the folder that the clone is in.
"""

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

WIDTH = 132
STYLES = {
    r"^➤.*": "bold green",
    r"^(why|chosen): ": "cyan",
    r"^(corpus|tokenizer|pretrain|alignment|sft|reward|rlhf|evaluate|quantise|serve)\b": "bold",
    r"^(bill|evaluation|stages|next)$": "bold magenta",
    r"considered bids$": "bold magenta",
    r"^a poem .*": "bold magenta",
    r"loss [\d.]+|val_loss [\d.]+|ETA \S+|[\d,]+ tokens/s": "yellow",
    r"[\d.]+ CNY": "green",
}


def shown(lines: list[str]) -> list[str]:
    """The start, the bids and progress of the pretraining, then everything from the poem on."""
    bids = lines.index("pretrain: considered bids")
    end = next(n for n, line in enumerate(lines) if line.startswith("pretrain: succeeded"))
    poem = next(n for n, line in enumerate(lines) if line.startswith("a poem from"))
    progress = [line for line in lines[bids:end] if line.startswith("pretrain at") and "val_loss" in line]
    few = progress[:: max(1, len(progress) // 5)]
    last = next(n for n, line in enumerate(lines) if line == "next")
    start = [line for line in lines[:bids] if line.startswith(("starting", "  ", "put", "submitted"))]
    table = lines[bids : bids + 6]
    return ["$ make quickstart", *start[:7], "…", *table, "…", *few, "…", lines[end], "…", *lines[poem:last]]


def main() -> None:
    text = re.sub(r"/\S*/(?=state/quickstart)", "", Path(sys.argv[1]).read_text("utf-8"))
    lines = text.splitlines()
    with open("/dev/null", "w") as nowhere:
        console = Console(record=True, width=WIDTH, file=nowhere, force_terminal=True)
        for line in shown(lines):
            drawn = Text(line, no_wrap=True, overflow="ellipsis")
            for pattern, style in STYLES.items():
                for match in re.finditer(pattern, line):
                    drawn.stylize(style, *match.span())
            console.print(drawn)
        picture = console.export_svg(title="make quickstart", clear=False)
    # drawn with the reader's own monospaced font: a font from elsewhere would be fetched on every view
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    # rich measures a line in characters, and Chinese ones are two cells wide: let them take their own width
    picture = re.sub(r'textLength="[\d.]+" (?=[^>]*>[^<]*[\u4e00-\u9fff])', "", picture)
    Path(__file__).with_name("quickstart.svg").write_text(picture, "utf-8")


if __name__ == "__main__":
    main()
