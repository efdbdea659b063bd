"""Shapes of public models that several tests use. Source: their config.json."""

from suan.estimate.cases import Shapes
from suan.estimate.shapes import counted


def llama_8b() -> Shapes:
    """Llama 3.1 8B."""
    return counted(
        Shapes.filled(
            1,
            layers=32,
            hidden=4096,
            heads=32,
            kv_heads=8,
            head_dim=128,
            value_head_dim=128,
            ffn=14336,
            vocab=128256,
        )
    )
