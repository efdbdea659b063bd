"""What does the socket cost a token? Throughput and time to the first token, beside the bare engine.

A real grid, a real agent and `transformers serve` with a small random model, which writes faster than any
model that people would use: the cost a token is seen at its worst. The same requests go to the engine's own
port and through the socket, in turns, in one run. Limits: the socket keeps nine tenths of the throughput and
adds less than a tenth of a second (Nielsen, Usability Engineering, 1993: felt as instantaneous).
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from report import Result, show

from suan.doors.client import Client

ROUNDS, TOKENS, CLIENTS = 3, 32, (1, 8)
SUAN = str(Path(sys.executable).with_name("suan"))
TASK = """
name: serve
recipe: serve
inputs: {model: model:bench}
resources: {cpus: 2}
replicas: {min: 1, max: 1}
"""


def make_model(folder: Path) -> Path:
    """A two-million-parameter decoder with random weights and a tokenizer of bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

    from suan.recipes.tokenizer import CHAT_TEMPLATE, END_OF_TEXT

    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, special_tokens=[END_OF_TEXT], initial_alphabet=alphabet)
    made.train_from_iterator(["春眠不觉晓", "处处闻啼鸟"], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END_OF_TEXT, pad_token=END_OF_TEXT)
    tokenizer.chat_template = CHAT_TEMPLATE
    shape = {"hidden_size": 192, "intermediate_size": 576, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = Qwen3Config(**shape, vocab_size=len(tokenizer), num_key_value_heads=2, head_dim=48)
    model = AutoModelForCausalLM.from_config(config)
    model.generation_config.eos_token_id = None  # every answer is as long as asked for
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stream(url: str, key: str, model: str) -> tuple[float, int]:
    """(seconds to the first token, tokens) of one streamed answer."""
    body = {"model": model, "stream": True, "max_tokens": TOKENS, "stream_options": {"include_usage": True}}
    body["messages"] = [{"role": "user", "content": "春"}]
    began_s, first_s, tokens = time.perf_counter(), 0.0, 0
    with httpx.stream(
        "POST",
        f"{url}/v1/chat/completions",
        json=body,
        headers={"authorization": f"Bearer {key}"},
        timeout=120,
        trust_env=False,
    ) as answer:
        for line in answer.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("choices") and not first_s:
                first_s = time.perf_counter() - began_s
            tokens = (event.get("usage") or {}).get("completion_tokens", tokens)
    return first_s, tokens


def measure(doors: dict[str, tuple[str, str, str]], clients: int) -> dict[str, tuple[float, float]]:
    """(median tokens a second, median seconds to the first token) by door, the doors taken in turns."""
    rates: dict[str, list[float]] = {name: [] for name in doors}
    firsts: dict[str, list[float]] = {name: [] for name in doors}
    with ThreadPoolExecutor(clients) as pool:
        for turn in range(ROUNDS + 1):
            for name, (url, key, model) in doors.items():
                began_s = time.perf_counter()
                seen = list(pool.map(lambda _, door=(url, key, model): stream(*door), range(clients)))
                took_s = time.perf_counter() - began_s
                if turn:  # the first warms up
                    rates[name].append(sum(tokens for _, tokens in seen) / took_s)
                    firsts[name] += [first_s for first_s, _ in seen]
    return {name: (statistics.median(rates[name]), statistics.median(firsts[name])) for name in doors}


def results(doors: dict[str, tuple[str, str, str]]) -> list[Result]:
    found: list[Result] = []
    for clients in CLIENTS:
        seen = measure(doors, clients)
        (rate, first_s), (bare_rate, bare_first_s) = seen["socket"], seen["engine"]
        who = f"{clients} client{'s' if clients > 1 else ''}"
        found += [
            Result(
                f"tokens through the socket, {who}",
                rate,
                "tokens/s",
                0.9 * bare_rate,
                "nine tenths of the engine",
                rate / bare_rate,
                f"the bare engine ({bare_rate:,.0f} tokens/s)",
                higher_is_better=True,
            ),
            Result(
                f"first token through the socket, {who}",
                first_s,
                "s",
                bare_first_s + 0.1,
                "a tenth of a second more than the engine",
                first_s / bare_first_s,
                f"the bare engine ({bare_first_s:.3f} s)",
            ),
        ]
    return found


def ready(client: Client, job: str) -> dict[str, Any]:
    """The run of the service, once it answers."""
    while True:
        seen = client.job(job)
        runs = [run for run in seen.get("runs", ()) if run.get("endpoint")]
        if runs:
            return dict(runs[-1])
        assert seen["phase"] not in ("failed", "stopped"), seen
        time.sleep(0.3)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "SUAN_CONFIG": f"{folder}/client.json"}
        run = {"env": env, "check": True, "capture_output": True, "text": True}
        up = [SUAN, "up", "--state", f"{folder}/grid", "--port", "0", "--detach", "--json"]
        url = json.loads(subprocess.run(up, **run).stdout)["url"]
        key = Path(f"{folder}/grid/admin.key").read_text().strip()
        client = Client(url, key)
        join = [SUAN, "join", url, "--token", client.join_token("here"), "--site", "here"]
        join += ["--state", f"{folder}/here", "--pool", "cpu:CPU-x86:1x2"]
        agent = subprocess.Popen(join, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not any(site.get("pools") for site in client.sites()):
                time.sleep(0.1)
            subprocess.run([SUAN, "put", str(make_model(Path(folder) / "model")), "model:bench"], **run)
            (job,) = client.submit(TASK)
            endpoint = ready(client, job["id"])["endpoint"]
            named = str(client.job(job["id"])["progress"]["served_model"])
            show("serving", results({"engine": (endpoint, "none", named), "socket": (url, key, "bench")}))
        finally:
            agent.terminate()
            agent.wait()
            subprocess.run([SUAN, "down", "--state", f"{folder}/grid"], env=env, capture_output=True)


if __name__ == "__main__":
    main()
