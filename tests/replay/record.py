"""Copies a journal for replay tests: `python tests/replay/record.py STATE/grid.sqlite OUT.jsonl.gz`.

Secrets of tasks must not be among the facts: record runs of the examples only.
"""

import gzip
import sys
from pathlib import Path

from suan.journals.codec import encode
from suan.journals.sqlite import SqliteJournal

if __name__ == "__main__":
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    journal = SqliteJournal(source)
    lines = [encode(fact) for _, fact in journal.read()]
    target.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", mtime=0))
    print(f"{len(lines)} facts in {target}")
