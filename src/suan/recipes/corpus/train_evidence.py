"""Learns what stands around a line in an article, from pages that are strung together of seeds.

Knows folds: the pages of each are made of seeds that the classifier which reads them was trained without.
Read by one that knows them, every line would look sure, and nothing else would count.
"""

import random
from typing import TYPE_CHECKING, Any

from suan.recipes.corpus import evidence
from suan.recipes.corpus.codes import Texts
from suan.recipes.corpus.evidence import Network
from suan.recipes.corpus.lines import Judged
from suan.recipes.corpus.train_lines import (
    code,
    drawn,
    examples,
    margins,
    scrambled_lines,
    seed_lines,
    stuffed_lines,
    train,
    verse,
)
from suan.recipes.corpus.train_pages import Source, page, sentences

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

FOLDS, ROUNDS, PAGES = 4, 2, 200  # pages of each language in each fold; every round cuts other folds
NETWORKS = 4  # of which the mean is taken
UNITS, EPOCHS, BATCH, LEARNING_RATE, DECAY = 48, 12, 512, 0.003, 0.01


def _plain(seed: str) -> str:
    return seed.replace("〔", "").replace("〕", "")


def _is_neutral(seed: str) -> bool:
    """Whether pages in either language hold such lines: code, numbers, and what mixes both."""
    return _plain(seed).isascii() or not any("一" <= character <= "鿿" for character in seed)


def folds(seeds: list[str], number: int) -> tuple[list[str], list[str]]:
    """(seeds to learn from, seeds kept apart): what is drawn from one seed is all on one side."""
    order = random.Random(number // FOLDS).sample(range(len(seeds)), len(seeds))
    apart = set(order[number % FOLDS :: FOLDS])
    return (
        [seed for here, seed in enumerate(seeds) if here not in apart],
        [seed for here, seed in enumerate(seeds) if here in apart],
    )


def sources(draw: random.Random, good: list[str], bad: list[str]) -> list[Source]:
    """What pages in Chinese and pages in English are strung together from."""
    found = []
    for is_english in (False, True):
        chosen = [seed for seed in good if _plain(seed).isascii() == is_english or _is_neutral(seed)]
        lists = [list(drawn(draw, [seed])) for seed in chosen if "〔" in seed]
        lists += [] if is_english else [list(lines) for lines in verse()]
        furniture = [list(drawn(draw, [seed])) for seed in bad if _plain(seed).isascii() == is_english]
        prose = sentences(list(drawn(draw, chosen)))
        stuffed = [line for line in stuffed_lines(draw, 60) if line.isascii() == is_english]
        stuffed += [] if is_english else scrambled_lines(draw, prose, 15)
        words = [seed.split("\t")[1].split(" ") for seed in seed_lines("words.txt")]
        menus = [some for some in words if some[0].isascii() == is_english]
        found.append(Source(prose, lists, furniture, stuffed, menus, code(), is_english))
    return found


def rows_of(number: int, good: list[str], bad: list[str]) -> tuple["Array", "Array", float]:
    """(features, labels, part of lines judged rightly without their seed) of the pages of one fold."""
    import numpy as np

    draw = random.Random(number)
    (good_known, good_apart), (bad_known, bad_apart) = folds(good, number), folds(bad, number)
    model = train(*examples(draw, good_known, bad_known))
    lines, truth = examples(draw, good_apart, bad_apart)
    right = float(((margins(Texts(lines), *model) > 0) == (truth == 1)).mean())
    pages = [page(draw, source) for source in sources(draw, good_apart, bad_apart) for _ in range(PAGES)]
    every = [line for one in pages for line in one.lines]
    stops = np.cumsum([len(one.lines) for one in pages]).tolist()
    judged = Judged(every, stops, margins(Texts([line.text for line in every]), *model))
    unsure = ~judged.hard & (judged.said > 0)
    labels = np.array([label for one in pages for label in one.is_article], float)
    return evidence.features(judged)[unsure], labels[unsure], right


def fit(rows: "Array", labels: "Array", seed: int) -> Network:
    """A network by AdamW in small batches, the same one for the same seed."""
    import torch
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(seed)
    torch.set_num_threads(1)  # sums in one order
    known = TensorDataset(torch.from_numpy(rows).float(), torch.from_numpy(labels).float())
    batches = DataLoader(known, BATCH, shuffle=True, drop_last=True)
    net = torch.nn.Sequential(
        torch.nn.Linear(rows.shape[1], UNITS), torch.nn.ReLU(), torch.nn.Linear(UNITS, 1)
    )
    optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS * len(batches))
    for _ in range(EPOCHS):
        for some, wanted in batches:
            optimizer.zero_grad()
            said = net(some).squeeze(1)
            torch.nn.functional.binary_cross_entropy_with_logits(said, wanted).backward()
            optimizer.step()
            schedule.step()
    hidden, _, out = net
    weights = [part.detach().double().numpy() for part in (hidden.weight.T, hidden.bias, out.weight[0])]
    return Network(*weights, out.bias.item())


def mean(networks: list[Network]) -> Network:
    """One network that says what these say on average."""
    import numpy as np

    many = len(networks)
    return Network(
        np.concatenate([one.hidden for one in networks], 1),
        np.concatenate([one.hidden_bias for one in networks]),
        np.concatenate([one.out for one in networks]) / many,
        sum(one.out_bias for one in networks) / many,
    )


def train_evidence(good: list[str], bad: list[str]) -> tuple[Network, float, "Array"]:
    """(the network, part of lines that the classifier judges rightly without their seed, what each feature is
    worth: how much worse the network does with it shuffled)."""
    import numpy as np

    parts = [rows_of(number, good, bad) for number in range(FOLDS * ROUNDS)]
    rows, labels = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    network = mean([fit(rows, labels, seed) for seed in range(NETWORKS)])
    return network, float(np.mean([part[2] for part in parts])), _worth(network, rows, labels)


def _worth(network: Network, rows: "Array", labels: "Array") -> "Array":
    import numpy as np

    chance = np.random.default_rng(7)

    def right(some: "Array") -> float:
        return float(((network.log_odds(some) > 0) == (labels == 1)).mean())

    whole, worth = right(rows), np.zeros(rows.shape[1])
    for column in range(rows.shape[1]):
        shuffled = rows.copy()
        chance.shuffle(shuffled[:, column])
        worth[column] = whole - right(shuffled)
    return worth
