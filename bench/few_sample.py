"""How many examples does a downstream task need? Fine-tunes a model with 0, 32, 128 and 512 examples.

    python bench/few_sample.py --model MODEL --poems examples/data/tang-poems

The task is not one that the model was made for: told a poem, name its form, one of four. What counts is
which of the four the model finds most likely, as FewCLUE scores it (Xu et al., 2021). Test poems are the same
for every size and in no training set; intervals are bootstraps over them. Prints a Markdown table.
"""

import argparse
import gzip
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from suan.recipes.compare import interval

FORMS = ("五言绝句", "七言绝句", "五言律诗", "七言律诗")
BATCH_ROWS = 16
Chat = list[dict[str, str]]


def read_examples(folder: Path, count: int, seed: int) -> list[Chat]:
    """`count` chats, as many of each form, in an order of the seed's."""
    from opencc import OpenCC

    to_simplified = OpenCC("t2s").convert
    by_form: dict[str, list[str]] = {form: [] for form in FORMS}
    for file in sorted(folder.glob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                if record.get("form") in by_form:
                    by_form[record["form"]].append("\n".join(record["lines"]))
    draw = random.Random(seed)
    chats = []
    for form, poems in by_form.items():
        for poem in draw.sample(poems, count // len(FORMS)):
            asked = {"role": "user", "content": f"{to_simplified(poem)}\n这首诗是什么体裁？"}
            chats.append([asked, {"role": "assistant", "content": form}])
    draw.shuffle(chats)
    return chats


def right_answers(model_folder: Path, chats: list[Chat]) -> list[float]:
    """1 for each chat whose form the model finds the most likely."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32).eval()
    right = []
    for chat in chats:
        prompt = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
        start = len(tokenizer(prompt)["input_ids"])
        batch = tokenizer(
            [prompt + form for form in FORMS],
            return_tensors="pt",
            padding=True,
            padding_side="right",
            return_token_type_ids=False,
        )
        with torch.no_grad():
            logits = model(**batch).logits[:, start - 1 : -1].log_softmax(-1)
        tokens, mask = batch["input_ids"][:, start:], batch["attention_mask"][:, start:]
        scores = (logits.gather(2, tokens[..., None])[..., 0] * mask).sum(1) / mask.sum(1)
        right.append(float(FORMS[int(scores.argmax())] == chat[1]["content"]))
    return right


def fine_tune(model_folder: Path, chats: list[Chat], held_out: list[Chat], work: Path, args: Any) -> Path:
    """The folder of the model fine-tuned on the chats."""
    data, output = work / "data", work / "model"
    data.mkdir(parents=True)
    for name, part in (("train", chats), ("held-out", held_out)):
        rows = [json.dumps({"messages": chat}, ensure_ascii=False) for chat in part]
        (data / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    values = {
        "steps": max(args.min_steps, args.epochs * len(chats) // BATCH_ROWS),
        "batch_rows": BATCH_ROWS,
        "learning_rate": args.learning_rate,
        "eval_every": 10_000,
        "eval_rows": BATCH_ROWS,
    }
    command = [sys.executable, "-m", "suan.recipes.sft", "--input", f"model={model_folder}"]
    command += ["--input", f"dataset={data}", "--output", f"model={output}"]
    command += [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return output


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, required=True, help="a model folder with a chat template")
    parser.add_argument("--poems", type=Path, required=True)
    parser.add_argument("--sizes", type=int, nargs="+", default=[0, 32, 128, 512])
    parser.add_argument("--test", type=int, default=200, help="poems to test on")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--min-steps", type=int, default=24)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    chats = read_examples(args.poems, args.test + max(args.sizes), args.seed)
    test, pool = chats[: args.test], chats[args.test :]
    print("| examples | right | 95 % interval | seconds of fine-tuning |\n| ---: | ---: | --- | ---: |")
    for size in args.sizes:
        started_s = time.monotonic()
        with tempfile.TemporaryDirectory() as work:
            tuned = fine_tune(args.model, pool[:size], test, Path(work), args) if size else args.model
            took_s = time.monotonic() - started_s if size else 0.0
            right = right_answers(tuned, test)
        low, high = interval(right)
        accuracy = sum(right) / len(right)
        print(f"| {size} | {accuracy:.3f} | {low:.3f} to {high:.3f} | {took_s:.0f} |", flush=True)


if __name__ == "__main__":
    main()
