"""How fast a run is beside what its devices could do.

Knows the operations of a step and the peaks of devices. Does not time anything but a matrix product.
"""

import time
from typing import Any


def flops_per_token(model: Any, seq_len: int) -> float:
    """Operations to learn from one token, forward and backward, recomputation not counted.

    Source: PaLM (arXiv 2204.02311), appendix B: 6 N + 12 L H Q T; N without the input embedding, and of
    experts those that a token goes through.
    """
    config = model.config
    experts = getattr(config, "n_routed_experts", None) or getattr(config, "num_local_experts", None)
    experts = experts or getattr(config, "num_experts", None) or 0
    part = config.num_experts_per_tok / experts if experts else 1.0
    weights = 0.0
    for name, weight in model.named_parameters():
        weights += weight.numel() * (part if ".experts." in name and weight.ndim == 3 else 1.0)
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 6.0 * weights + 12.0 * config.num_hidden_layers * config.num_attention_heads * head * seq_len


def peak_flops(device: Any, dtype: str) -> float:
    """Operations a second of one rank's device: the maker's figure, for a CPU that of a large product.

    0 for an accelerator that the grid's table does not know.
    """
    import torch

    if device.type != "cpu":
        return _published(torch.cuda.get_device_name(device), dtype)
    kind = torch.bfloat16 if dtype == "bfloat16" else torch.float32
    one = torch.ones(768, 768, dtype=kind)
    seconds = []
    for _ in range(4):
        started_s = time.perf_counter()
        one @ one
        seconds.append(time.perf_counter() - started_s)
    return 2.0 * 768**3 / min(seconds)


def _published(name: str, dtype: str) -> float:
    """Of the accelerator whose name or alias is part of what the driver calls it; the longest wins."""
    from suan.grid.hardware import accelerators

    words = name.lower().replace("-", " ").split()
    found = ("", 0.0)
    for kind in accelerators().values():
        for spelling in (kind.name, *kind.aliases):
            parts = spelling.lower().replace("_", " ").replace("-", " ").split()
            if set(parts) <= set(words) and len(spelling) > len(found[0]):
                peak = kind.peak_tflops.get("bf16" if dtype == "bfloat16" else "fp32", 0.0)
                found = (spelling, peak * 1e12)
    return found[1]
