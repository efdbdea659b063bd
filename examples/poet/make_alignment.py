"""The data sets that turn a model of poems into a poet: conversations, preferences and prompts.

    python examples/poet/make_alignment.py --corpus CORPUS --poems examples/data/tang-poems --output OUT

writes `OUT/conversations`, `OUT/preferences` and `OUT/prompts`, each with `train.jsonl` and `held-out.jsonl`.
As a task of a grid it needs no options: inputs `corpus` and `poems`, outputs named as the three folders.

A poem is held out here exactly when the corpus holds it out. Preferences have two sources: of two poems of
one author in one form the better known one (search engines' counts, from the data), and a poem over a copy
of itself that a rule has spoilt. A line of the data is a couplet; a verse is half of one.
"""

import argparse
import gzip
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from opencc import OpenCC
from verse_lexicon import han, rhymes_of, tones_of

KNOWN_RATIO = 4.0  # so much better known counts as preferred
KNOWN_SHARE = 0.2  # of the preferences
Poem = dict[str, Any]


def read_poems(folder: Path) -> dict[str, Poem]:
    """Poems in simplified characters by what they say, without punctuation."""
    converter = OpenCC("t2s")
    found = {}
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                poem = json.loads(converter.convert(line))
                found[han("".join(poem["lines"]))] = poem
    return found


def read_chats(corpus: Path, pattern: str) -> list[list[dict[str, str]]]:
    """The messages of the documents of a corpus that have some."""
    chats = []
    for file in sorted(corpus.glob(pattern)):
        with file.open(encoding="utf-8") as lines:
            chats += [messages for line in lines if (messages := json.loads(line).get("messages"))]
    return chats


def how_known(poem: Poem) -> float | None:
    """The mean logarithm of the pages that search engines counted; None when they did not."""
    hits = [count for count in (poem.get("hits") or {}).values() if count > 0]
    return sum(map(math.log, hits)) / len(hits) if hits else None


def verses(answer: str) -> list[list[str]]:
    """The couplets of an answer, each as its two verses."""
    return [line.removesuffix("。").split("，") for line in answer.split("\n")]


def written(couplets: list[list[str]]) -> str:
    return "\n".join("，".join(couplet) + "。" for couplet in couplets)


# ---------------------------------------------------------------- ways to spoil a poem


class Spoiler:
    """Rules that make a poem worse, each in one way that is known."""

    def __init__(self, answers: list[str], lexicon: dict[str, dict[str, Any]], draw: random.Random) -> None:
        self._draw = draw
        self._tones, self._rhymes = lexicon["tones"], lexicon["rhymes"]
        self._counts = Counter(character for answer in answers for character in han(answer))
        self._characters = sorted(self._counts)
        self._verses: dict[int, list[str]] = {}
        for answer in answers:
            for couplet in verses(answer):
                for verse in couplet:
                    self._verses.setdefault(len(verse), []).append(verse)
        self.rules: dict[str, Callable[[list[list[str]]], None]] = {
            "order": self.order,
            "length": self.length,
            "rhyme": self.rhyme,
            "tone": self.tone,
            "repeat": self.repeat,
            "stranger": self.stranger,
        }

    def spoil(self, answer: str) -> tuple[str, str]:
        """(what was done, the worse poem)."""
        kind = self._draw.choice(sorted(self.rules))
        couplets = verses(answer)
        self.rules[kind](couplets)
        return kind, written(couplets)

    def _any_of(self, characters: list[str]) -> str:
        """One of them, as often as poems use it: a spoilt poem is not given away by rare characters."""
        characters = characters or self._characters
        return self._draw.choices(characters, [self._counts[one] for one in characters])[0]

    def _place(self, couplets: list[list[str]]) -> tuple[list[str], int]:
        return self._draw.choice(couplets), self._draw.randrange(2)

    def order(self, couplets: list[list[str]]) -> None:
        """The characters of each verse are shuffled."""
        for couplet in couplets:
            couplet[:] = ["".join(self._draw.sample(verse, len(verse))) for verse in couplet]

    def length(self, couplets: list[list[str]]) -> None:
        """A verse loses or gains a character."""
        couplet, side = self._place(couplets)
        verse, place = couplet[side], self._draw.randrange(len(couplet[side]))
        more = self._any_of(self._characters) if self._draw.random() < 0.5 else ""
        couplet[side] = verse[:place] + (more + verse[place] if more else "") + verse[place + 1 :]

    def rhyme(self, couplets: list[list[str]]) -> None:
        """The last character of the poem is one of the same tone that does not rhyme."""
        verse = couplets[-1][1]
        tone, group = self._tones.get(verse[-1]), self._rhymes.get(verse[-1])
        others = [one for one in self._characters if self._tones.get(one) == tone]
        others = [one for one in others if self._rhymes.get(one) not in (group, None)]
        couplets[-1][1] = verse[:-1] + self._any_of(others)

    def tone(self, couplets: list[list[str]]) -> None:
        """The second and fourth character of one verse in each couplet are others, of the opposite tone."""
        for couplet in couplets:
            side = self._draw.randrange(2)
            verse = list(couplet[side])
            for place in (1, 3):
                mark = self._tones.get(verse[place])
                others = [one for one in self._characters if self._tones.get(one) not in (mark, None)]
                verse[place] = self._any_of(others)
            couplet[side] = "".join(verse)

    def repeat(self, couplets: list[list[str]]) -> None:
        """The poem says its first couplet twice."""
        couplets[-1] = list(couplets[0])

    def stranger(self, couplets: list[list[str]]) -> None:
        """One verse in each couplet is from another poem."""
        for couplet in couplets:
            side = self._draw.randrange(2)
            couplet[side] = self._draw.choice(self._verses[len(couplet[side])])


# ---------------------------------------------------------------- data sets


def known_pairs(chats: list[Any], poems: dict[str, Poem], count: int, draw: random.Random) -> list[Poem]:
    """Preferences for the better known of two poems of one author in one form."""
    groups: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for messages in chats:
        answer = messages[-1]["content"]
        poem = poems.get(han(answer))
        score = how_known(poem) if poem else None
        if poem and score is not None:
            groups.setdefault((poem["author"], poem["form"]), []).append((score, answer))
    usable = sorted(key for key, members in groups.items() if len(members) > 1)
    if not usable:
        return []
    sizes = [len(groups[key]) for key in usable]
    made = []
    for _ in range(20 * count):
        key = draw.choices(usable, sizes)[0]
        worse, better = sorted(draw.sample(groups[key], 2))
        if better[0] - worse[0] >= math.log(KNOWN_RATIO):
            made.append(_preference(f"写一首{key[1]}", better[1], worse[1], "known"))
        if len(made) == count:
            break
    return made


def spoilt_pairs(chats: list[Any], spoiler: Spoiler, count: int, draw: random.Random) -> list[Poem]:
    """Preferences for a poem over its spoilt copy."""
    made = []
    for _ in range(count):
        messages = draw.choice(chats)
        kind, worse = spoiler.spoil(messages[-1]["content"])
        if worse != messages[-1]["content"]:
            made.append(_preference(messages[0]["content"], messages[-1]["content"], worse, kind))
    return made


def _preference(asked: str, chosen: str, rejected: str, kind: str) -> Poem:
    return {
        "prompt": [{"role": "user", "content": asked}],
        "chosen": [{"role": "assistant", "content": chosen}],
        "rejected": [{"role": "assistant", "content": rejected}],
        "kind": kind,
    }


def prompt(messages: list[dict[str, str]]) -> Poem:
    """What to ask, the lengths of the verses to expect, and what a poet answered."""
    answer = messages[-1]["content"]
    shape = [len(verse) for couplet in verses(answer) for verse in couplet]
    return {"prompt": messages[:-1], "shape": shape, "reference": answer}


def folder_of(name: str, output: Path) -> Path:
    """Where a data set goes: where the site wants the output of that name, or below `output`."""
    return Path(os.environ.get(f"SUAN_OUTPUT_{name.upper()}") or output / name)


def write_rows(file: Path, rows: list[Poem]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{file}: {len(rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Conversations, preferences and prompts from a corpus of poems."
    )
    for name, what in (
        ("corpus", "what the corpus stage wrote"),
        ("poems", "JSON lines with tones and hits"),
    ):
        given = os.environ.get(f"SUAN_INPUT_{name.upper()}")
        parser.add_argument(f"--{name}", type=Path, required=not given, default=given, help=what)
    parser.add_argument("--output", type=Path, default=Path("."))
    parser.add_argument(
        "--preferences", type=int, default=8000, help="for training; a tenth more is held out"
    )
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    poems = read_poems(options.poems)
    parts = {
        "train": read_chats(options.corpus, "train-*.jsonl"),
        "held-out": read_chats(options.corpus, "valid.jsonl"),
    }
    held_out = {han(messages[-1]["content"]) for messages in parts["held-out"]}
    seen = [poem for text, poem in poems.items() if text not in held_out]
    lexicon = {"tones": tones_of(seen), "rhymes": rhymes_of(seen)}
    for part, chats in parts.items():
        draw = random.Random(f"{options.seed} {part}")
        draw.shuffle(chats)
        write_rows(
            folder_of("conversations", options.output) / f"{part}.jsonl",
            [{"messages": chat} for chat in chats],
        )
        write_rows(folder_of("prompts", options.output) / f"{part}.jsonl", [prompt(chat) for chat in chats])
        spoiler = Spoiler([chat[-1]["content"] for chat in chats], lexicon, draw)
        count = options.preferences if part == "train" else max(1, options.preferences // 10)
        known = known_pairs(chats, poems, round(KNOWN_SHARE * count), draw)
        pairs = known + spoilt_pairs(chats, spoiler, count - len(known), draw)
        draw.shuffle(pairs)
        write_rows(folder_of("preferences", options.output) / f"{part}.jsonl", pairs)
    file = folder_of("prompts", options.output) / "verse.json"
    file.write_text(json.dumps(lexicon, ensure_ascii=False, sort_keys=True), encoding="utf-8")


if __name__ == "__main__":
    main()
