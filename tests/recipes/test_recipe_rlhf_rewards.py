"""Rewards that can be verified, the statistics of a comparison, and the watch over a hacked reward."""

import random
from pathlib import Path

import pytest

from suan.grid.error import Refused
from suan.recipes.compare import Panel, Sampling, interval, summary, win_rates
from suan.recipes.reward import measure
from suan.recipes.rewards import scorers, text, verse, weighted
from suan.recipes.rlhf import in_order
from suan.recipes.watching import Watch

FIVES = [5, 5, 5, 5]
# 登鹳雀楼 (王之涣): a quatrain by the rules, 仄起; its tones as the rhyme books give them.
STORKS = "白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。"
LEXICON = verse.Lexicon(
    tones=dict.fromkeys("白日尽入海欲里目更上一", "仄") | dict.fromkeys("依山黄河流穷千层楼", "平"),
    rhymes={"流": 1, "楼": 1, "秋": 1, "山": 2},
)


def test_the_form_is_right_only_when_every_line_is() -> None:
    assert verse.form(STORKS, FIVES) == 1.0
    assert verse.form(STORKS.replace("更上一层楼", "更上层楼"), FIVES) == 0.75
    assert verse.form(STORKS + "\n更上一层楼。", FIVES) == 0.8, "a line too many is an error too"
    assert verse.form("", FIVES) == verse.form("。。。", FIVES) == 0.0


def test_rhyme_is_another_character_of_the_same_class() -> None:
    assert verse.rhyme(STORKS, FIVES, LEXICON) == 1.0
    assert verse.rhyme(STORKS.replace("楼", "山"), FIVES, LEXICON) == 0.0
    assert verse.rhyme(STORKS.replace("楼", "流"), FIVES, LEXICON) == 0.0, "an echo is no rhyme"
    assert verse.rhyme(STORKS.replace("楼", "囗").replace("流", "囗"), FIVES, LEXICON) == 0.0
    assert verse.rhyme("黄河入海流。", FIVES, LEXICON) == 0.0


def test_tones_follow_the_rules_of_regulated_verse() -> None:
    assert verse.tones(STORKS, FIVES, LEXICON) == 1.0
    spoilt = verse.tones(STORKS.replace("黄河入海流", "白日入海目"), FIVES, LEXICON)
    assert 0.4 < spoilt < 0.8
    assert verse.tones("", FIVES, LEXICON) == 0.0
    unknown = "甲甲甲甲甲，甲甲甲甲甲。" * 2
    assert verse.tones(unknown, FIVES, LEXICON) == verse.UNKNOWN, "characters without a tone win nothing"


def test_text_that_repeats_itself_is_less_distinct() -> None:
    assert text.distinct("春眠不觉晓，处处闻啼鸟。") == 1.0
    assert text.distinct("春眠春眠春眠") < 0.5
    assert text.variety([STORKS, STORKS]) == pytest.approx(0.5)
    assert text.equals(" 是 ", "是") == 1.0 and text.matches("答：12", r"答：\d+") == 1.0


def test_rewards_are_weighed_and_names_are_checked(tmp_path: Path) -> None:
    found = scorers(["form", "distinct"], tmp_path)
    rows = [{"prompt": [], "shape": FIVES}] * 2
    scores = {name: scorer(rows, [STORKS, "春眠。"]) for name, scorer in found.items()}
    assert weighted(scores, {"form": 2.0, "distinct": 0.5}) == [2.5, 0.5]
    for name, code in {
        "fluency": "unknown_reward",
        "model": "no_reward_model",
        "rhyme": "no_verse_lexicon",
    }.items():
        with pytest.raises(Refused) as refused:
            scorers([name], tmp_path)
        assert refused.value.code == code


def test_an_interval_holds_the_mean_and_narrows_with_more_rows() -> None:
    draw = random.Random(1)
    few, many = ([draw.gauss(1.0, 1.0) for _ in range(count)] for count in (30, 3000))
    (low, high), (lower, higher) = interval(few), interval(many)
    assert low < 1.0 < high and 0.05 < higher - lower < 0.11 < high - low


def test_win_rates_are_paired_and_draws_count_half() -> None:
    ours, theirs = {"reward": [1.0, 2.0, 3.0, 4.0]}, {"reward": [0.0, 2.0, 4.0, 3.0]}
    assert win_rates(ours, theirs)["win_reward"] == 0.625
    numbers = summary([STORKS, ""], {"form": [1.0, 0.75]})
    assert numbers["form_correct"] == 0.5 and numbers["form"] == 0.875


def test_a_reward_model_is_measured_by_kind_of_pair() -> None:
    found = measure([(1.0, 0.0), (0.0, 1.0), (2.0, 0.0)], ["order", "known", "order"])
    assert found["accuracy_order"] == 1.0 and found["accuracy_known"] == 0.0
    assert found["accuracy"] == pytest.approx(2 / 3) and found["margin"] == pytest.approx(2 / 3)


def test_prompts_come_in_an_order_that_only_seed_and_step_decide() -> None:
    rows = [{"prompt": [number]} for number in range(10)]
    long, short = in_order(rows, 25, 1), in_order(rows, 12, 1)
    assert long[:12] == short and long[:10] != long[10:20] != in_order(rows, 25, 2)[10:20]
    assert sorted(row["prompt"][0] for row in long[:10]) == list(range(10))


@pytest.mark.parametrize(
    ("looks", "parted"),
    [
        ([(1.0, 0.9), (1.2, 0.9), (1.4, 0.85)], False),
        ([(1.0, 0.9), (1.2, 0.6), (1.4, 0.5)], True),
        ([(1.0, 0.9), (1.2, 0.6), (1.4, 0.85)], False),  # once may be chance
        ([(1.0, 0.9), (0.8, 0.6), (0.7, 0.5)], False),  # both fall: training fails, nothing is hacked
        ([(1.0, 0.9), (1.2, 0.6)], False),
    ],
)
def test_reward_and_quality_part_when_one_rises_and_the_other_falls(
    looks: list[tuple[float, float]], parted: bool
) -> None:
    watch = Watch([], Panel({}, {}, Sampling(8)), {"variety": 1.0}, tolerance=0.2)
    assert watch.parted([{"reward": reward, "quality": quality} for reward, quality in looks]) is parted


def test_the_best_look_has_the_most_reward_without_a_loss_of_quality() -> None:
    watch = Watch([], Panel({}, {}, Sampling(8)), {"variety": 1.0}, tolerance=0.2)
    looks = [
        {"step": step, "reward": reward, "quality": quality}
        for step, (reward, quality) in enumerate([(1.0, 0.9), (1.6, 0.85), (1.4, 0.9), (2.0, 0.4)])
    ]
    assert watch.best(looks)["step"] == 1
    assert watch.best(looks[:1])["step"] == 0
