"""What was dropped and why: counts of lines, pages and characters, and the first few of each to look at.

Knows how accounts of parts add up to the account of a corpus. Does not know any rule.
"""

from collections import Counter

import msgspec

SAMPLES_PER_REASON = 5
SAMPLE_CHARS = 120


class Ledger(msgspec.Struct):
    """An account that can be added to another."""

    counts: dict[str, int] = {}  # reason -> how many
    characters: dict[str, int] = {}  # reason -> characters that went
    samples: dict[str, list[str]] = {}
    stages: dict[str, list[int]] = {}  # stage -> [documents, characters] that came out of it
    mended: dict[str, int] = {}

    def drop(self, reason: str, sample: str, characters: int = 0) -> None:
        self.counts[reason] = self.counts.get(reason, 0) + 1
        self.characters[reason] = self.characters.get(reason, 0) + characters
        self._sample(reason, sample)

    def _sample(self, reason: str, sample: str) -> None:
        kept = self.samples.setdefault(reason, [])
        if sample and len(kept) < SAMPLES_PER_REASON:
            kept.append(" ".join(sample.split())[:SAMPLE_CHARS])

    def stage(self, name: str, documents: int, characters: int) -> None:
        before = self.stages.get(name, [0, 0])
        self.stages[name] = [before[0] + documents, before[1] + characters]

    def mend(self, numbers: dict[str, int]) -> None:
        self.mended = dict(Counter(self.mended) + Counter(numbers))

    def add(self, other: "Ledger") -> None:
        self.counts = dict(Counter(self.counts) + Counter(other.counts))
        self.characters = dict(Counter(self.characters) + Counter(other.characters))
        self.mend(other.mended)
        for reason, samples in other.samples.items():
            for sample in samples:
                self._sample(reason, sample)
        for name, (documents, characters) in other.stages.items():
            self.stage(name, documents, characters)
