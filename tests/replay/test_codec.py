"""Journals that were written once stay readable: one recorded line for each class of fact.

After a new class of fact, append its line: `python tests/replay/test_codec.py`. Recorded lines stay.
"""

import json
import sys
from pathlib import Path

import pytest

RECORDED = Path(__file__).parent / "facts-v1.jsonl"
sys.path.insert(0, str(Path(__file__).parents[1] / "conformance"))

from fact_samples import CLASSES, full_sample  # noqa: E402

from suan.grid.error import Refused  # noqa: E402
from suan.journals.codec import FORMAT, checksum, decode, encode  # noqa: E402


def lines() -> list[bytes]:
    return RECORDED.read_bytes().splitlines()


@pytest.mark.parametrize("line", lines(), ids=lambda line: json.loads(line)["type"])
def test_a_recorded_fact_still_says_the_same(line):
    again = json.loads(encode(decode(line, 1)))
    assert contains(again, json.loads(line)), (
        "a field of old journals was renamed, dropped or changed its meaning"
    )


def test_every_class_of_fact_is_recorded():
    recorded = {json.loads(line)["type"] for line in lines()}
    missing = sorted({kind.__name__ for kind in CLASSES} - recorded)
    assert not missing, f"run python {Path(__file__).name}, and commit the new lines"


def test_a_later_format_is_refused_with_what_to_do():
    with pytest.raises(Refused) as refusal:
        decode(lines()[0], 12, FORMAT + 1)
    assert refusal.value.code == "journal_too_new"
    assert "fact 12" in str(refusal.value) and "install" in refusal.value.hint


def test_an_unknown_class_of_fact_is_refused_as_too_new():
    with pytest.raises(Refused, match="SiteBeamedUp") as refusal:
        decode(b'{"type":"SiteBeamedUp","at_s":1,"site":"a"}', 3)
    assert refusal.value.code == "journal_too_new"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"at_s":1}',
        b'{"type":7}',
        b'{"type":"SiteSilent","at_s":"x"}',
        b"[" * 9000,
    ],
)
def test_a_damaged_line_is_named(body):
    with pytest.raises(Refused, match="fact 41") as refusal:
        decode(body, 41)
    assert refusal.value.code == "journal_corrupt"


def test_checksum_sees_changed_bytes_and_changed_places():
    first, second = lines()[:2]
    assert checksum(first, 1) not in (checksum(first, 2), checksum(second, 1), checksum(first[:-1] + b" ", 1))


def contains(new: object, old: object) -> bool:
    """Whether everything in `old` is in `new`, where `new` may say more."""
    if isinstance(old, dict):
        return isinstance(new, dict) and all(key in new and contains(new[key], old[key]) for key in old)
    if isinstance(old, list):
        return isinstance(new, list) and len(new) == len(old) and all(map(contains, new, old))
    return new == old


def record_missing() -> None:
    """Appends a line for each class that has none."""
    known = {json.loads(line)["type"] for line in lines()} if RECORDED.exists() else set()
    with RECORDED.open("ab") as file:
        for kind in CLASSES:
            if kind.__name__ not in known:
                file.write(encode(full_sample(kind)) + b"\n")


if __name__ == "__main__":
    record_missing()
