"""tokenizer: a corpus in, a byte-level BPE tokenizer with a chat template out, as a Hugging Face folder.

Knows the split rule and special tokens of Qwen2, so that llama.cpp and vLLM read the result without a
patch. The training itself is `tokenizers`.
"""

import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from suan.grid.error import Refused
from suan.grid.job import Resources, Task
from suan.recipes.runtime import Context, arguments, command, run_stage, took, write_json

# Source: tokenizer.json of Qwen2 (Apache-2.0), `pre_tokenizer.pretokenizers[0].pattern`.
QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
END_OF_TEXT, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# The generation marks tell fine-tuning which tokens the assistant said; they render as nothing.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_HAN = "㐀-鿿\U00020000-\U0003ffff"
_HAN_RUN = re.compile(f"[{_HAN}]+")
# What is measured by script: Chinese with its punctuation, English words with what stands between them.
_CHINESE_RUN = re.compile(f"[{_HAN}\u3000-\u303f\uff00-\uffef]+")
_ENGLISH_RUN = re.compile(r"[A-Za-z](?:[ -~]*[A-Za-z.!?])?")


class Args(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Arguments of tokenizer."""

    vocab_size: Annotated[
        int, Meta(ge=264, le=262_144, description="Entries, the 256 bytes and special tokens included.")
    ] = 4096
    han_run: Annotated[
        int,
        Meta(
            ge=1,
            description="Chinese characters at most in one token: 1 for verse, 4 for prose.",
        ),
    ] = 1
    min_frequency: Annotated[int, Meta(ge=1, description="A merge seen less often is not made.")] = 2
    max_length: Annotated[
        int, Meta(ge=32, description="What models that use it may call their context, in tokens.")
    ] = 2048


def task(args: Args) -> Task:
    """One core for seconds."""
    return Task(
        name="tokenizer",
        recipe="tokenizer",
        run=command("tokenizer"),
        args=arguments(args),
        inputs={"corpus": "dataset:corpus"},
        outputs={"tokenizer": "tokenizer:tokenizer"},
        resources=(Resources(cpus=1),),
        duration_s=15,
    )


def read_documents(folder: Path, pattern: str) -> Iterator[dict[str, Any]]:
    """Documents of a corpus folder, in order.

    Raises: Refused `no_corpus` when no file matches.
    """
    files = sorted(folder.glob(pattern))
    if not files:
        raise Refused(
            "no_corpus", f"{folder} has no {pattern}", hint="give a folder that the corpus stage wrote"
        )
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                yield json.loads(line)


def _pieces(folder: Path, han_run: int) -> Iterator[str]:
    """Text to learn merges from, with runs of Chinese cut to `han_run` characters.

    Chinese has no spaces, so a whole clause would be one word: slow to learn from, and full of chance
    phrases.
    """
    cut = re.compile(f"[{_HAN}]{{1,{han_run}}}")
    for document in read_documents(folder, "train-*.jsonl"):
        messages = document.get("messages") or ()
        yield from (message["role"] for message in messages)  # every chat spells them: worth a token each
        # The answer is the text again: counting it twice would only take longer.
        for text in (document["text"], *(message["content"] for message in messages[:1])):
            position = 0
            for run in _HAN_RUN.finditer(text):
                if run.start() > position:
                    yield text[position : run.start()]
                yield from cut.findall(run.group())
                position = run.end()
            yield text[position:]


def train(folder: Path, args: Args) -> Any:
    """The tokenizer as transformers knows it."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=args.vocab_size,
        min_frequency=args.min_frequency,
        special_tokens=[END_OF_TEXT, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_pieces(folder, args.han_run), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=args.max_length,
        clean_up_tokenization_spaces=False,
    )


def measure(tokenizer: Any, texts: list[str]) -> dict[str, float]:
    """Bytes and characters a token, in all and by script, and the part of the texts that come back exactly.

    A script that the texts do not have is left out.
    """
    import unicodedata

    encoded = tokenizer(texts)["input_ids"]
    tokens = max(1, sum(map(len, encoded)))
    exact = sum(
        tokenizer.decode(ids) == unicodedata.normalize("NFC", text)
        for ids, text in zip(encoded, texts, strict=True)
    )
    numbers: dict[str, float] = {
        "bytes_per_token": sum(len(text.encode()) for text in texts) / tokens,
        "characters_per_token": sum(map(len, texts)) / tokens,
        "round_trip_exact_ratio": exact / max(1, len(texts)),
        "vocab_size": len(tokenizer),
    }
    for script, run in (("chinese", _CHINESE_RUN), ("english", _ENGLISH_RUN)):
        runs = [found for text in texts for found in run.findall(text)]
        if runs:
            pieces = sum(map(len, tokenizer(runs)["input_ids"]))
            numbers[f"{script}_bytes_per_token"] = sum(len(piece.encode()) for piece in runs) / pieces
    return numbers


def _body(context: Context[Args]) -> int:
    started_s = time.monotonic()
    corpus, folder = context.input("corpus"), context.output("tokenizer")
    context.progress.write(step=0, total=2, phase="train")
    tokenizer = train(corpus, context.args)
    tokenizer.save_pretrained(folder)
    context.progress.write(step=1, total=2, phase=f"trained in {took(started_s)}")
    texts = [document["text"] for document in read_documents(corpus, "valid.jsonl")][:2000]
    numbers = measure(tokenizer, texts)
    write_json(folder / "report.json", {**numbers, "measured_on_documents": len(texts)})
    context.progress.write(step=2, total=2, phase="measured", **numbers)
    context.metrics(**numbers)
    return 0


def main() -> int:
    return run_stage("tokenizer", _body)


if __name__ == "__main__":
    sys.exit(main())
