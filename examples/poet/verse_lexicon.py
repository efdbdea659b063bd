"""What a characters' tone is and which characters rhyme, learnt from the poems themselves.

Tones are printed beside the poems. Rhyme is not: characters that end the lines of one poem rhyme, so the
classes are the communities of the graph of such pairs (Louvain). Reading them shows the rhyme groups of the
time: 长香阳乡光床霜 …, 时知枝迟期诗悲 …
"""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

import networkx

HAN = re.compile("[㐀-鿿\U00020000-\U0003ffff]")
SURE_RATIO = 0.9  # a character that has one tone less often has both
MIN_PAIRS = 2  # a pair seen once may be a slip or a line that does not rhyme


def han(text: str) -> str:
    """The Chinese characters of a text."""
    return "".join(HAN.findall(text))


def tones_of(poems: Iterable[dict[str, Any]]) -> dict[str, str]:
    """平 or 仄 for every character that has one of them nearly always."""
    counts: dict[str, Counter[str]] = {}
    for poem in poems:
        for line, marks in zip(poem["lines"], poem.get("tones") or (), strict=False):
            characters = han(line)
            if len(characters) == len(marks):
                for character, mark in zip(characters, marks, strict=True):
                    counts.setdefault(character, Counter())[mark] += 1
    found = {}
    for character, marks in sorted(counts.items()):
        mark, count = marks.most_common(1)[0]
        if mark in "平仄" and count > SURE_RATIO * marks.total():
            found[character] = mark
    return found


def rhymes_of(poems: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The number of the class that a character rhymes in."""
    pairs: Counter[tuple[str, str]] = Counter()
    for poem in poems:
        ends = sorted({han(line)[-1] for line in poem["lines"] if han(line)})
        pairs.update((one, two) for place, one in enumerate(ends) for two in ends[place + 1 :])
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        (*pair, count) for pair, count in sorted(pairs.items()) if count >= MIN_PAIRS
    )
    classes = networkx.community.louvain_communities(graph, seed=1)
    return {character: number for number, group in enumerate(classes) for character in sorted(group)}
