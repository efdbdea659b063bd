"""An encoder (BERT) pretrained by masked tokens, with transformers' own Trainer: it fills in poems.

    python train.py --poems DIR --output DIR [--checkpoint DIR] [--steps 60]

A program of its own: it knows folders, and nothing of the grid. A second start goes on from the checkpoint.
"""

import argparse
import gzip
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

CONTEXT = 32


def read_poems(folder: Path, count: int) -> list[str]:
    poems: list[str] = []
    for file in sorted(folder.rglob("*.jsonl.gz")):
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            poems += ["".join(poem["lines"]) for poem in map(json.loads, lines) if poem["form"] == "五言绝句"]
    return poems[:count]


def character_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    marks = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [*marks, *sorted(set("".join(texts)))]
    made = Tokenizer(
        models.WordLevel({letter: index for index, letter in enumerate(letters)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), marks, strict=True))
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=CONTEXT, **names)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--poems", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, default=Path("checkpoint"))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--count", type=int, default=1500)
    options = parser.parse_args()

    set_seed(1)
    texts = read_poems(options.poems, options.count)
    tokenizer = character_tokenizer(texts)
    rows = [{"input_ids": ids} for ids in tokenizer(texts, truncation=True, max_length=CONTEXT)["input_ids"]]
    held_out = max(16, len(rows) // 20)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
    )
    trainer = Trainer(
        model=BertForMaskedLM(config),
        args=TrainingArguments(
            output_dir=str(options.checkpoint),
            max_steps=options.steps,
            per_device_train_batch_size=32,
            learning_rate=2e-3,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            save_steps=20,
            save_total_limit=1,
            logging_steps=20,
            report_to=[],
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
        ),
        train_dataset=rows[held_out:],
        eval_dataset=rows[:held_out],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        processing_class=tokenizer,
    )
    options.checkpoint.mkdir(parents=True, exist_ok=True)
    set_seed(2)
    before = trainer.evaluate()["eval_loss"]
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(options.checkpoint)))
    set_seed(2)  # the same characters are masked before and after
    after = trainer.evaluate()["eval_loss"]
    trainer.save_model(str(options.output))
    report = {"held_out_loss_before": before, "held_out_loss": after, "poems": len(texts)}
    (options.output / "report.json").write_text(json.dumps(report) + "\n")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
