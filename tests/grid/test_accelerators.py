"""The table of accelerator kinds: complete, unambiguous, and each number with a source."""

import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from suan.grid.error import Refused
from suan.grid.hardware import Accelerator, accelerator, accelerators

KINDS = list(accelerators().values())
NUMBERS = (
    "year",
    "peak_tflops",
    "measured_matmul_tflops",
    "memory_gib",
    "memory_gb_per_s",
    "link_gb_per_s",
    "link_domain",
    "tdp_w",
)
DTYPES = {"bf16", "fp16", "fp8", "fp4", "int8", "tf32", "fp32"}
DOCS = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_kind_can_be_scheduled_estimated_and_checked(kind: Accelerator) -> None:
    assert kind.vendor
    assert kind.device_class in {"gpu", "npu", "tpu", "cpu"}
    assert kind.torch_device and kind.kubernetes_resource
    assert bool(kind.visible_env) == (kind.device_class != "cpu"), (
        "every device but a core is pinned by a variable"
    )
    assert kind.peak_tflops or kind.measured_matmul_tflops or "peak not published" in kind.notes
    assert (kind.peak_tflops.keys() | kind.measured_matmul_tflops.keys()) <= DTYPES
    assert kind.memory_gib or kind.device_class == "cpu"

    given = {field for field in NUMBERS if getattr(kind, field) not in (None, {})}
    assert given == kind.sources.keys(), "every number has a source, every source a number"
    assert all(len(source) > 8 for source in kind.sources.values())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_numbers_are_of_the_right_size(kind: Accelerator) -> None:
    peak = kind.peak_tflops
    for dtype, measured in kind.measured_matmul_tflops.items():
        assert 0 < measured <= peak.get(dtype, measured), "nobody measures more than the peak"
    # Trainium3 runs fp8 at four times bf16; no other kind at more than twice.
    assert peak.get("fp8", 0) <= 4 * peak.get("bf16", peak.get("fp8", 0)), "a sparse rate among dense ones"
    assert (kind.tdp_w or 1) < 2000
    assert (kind.memory_gib or 1) < 1000
    if kind.device_class == "cpu":
        assert kind.tdp_w is not None and kind.tdp_w < 15, "a device is one core"
        assert sum(peak.values()) < 10


# Names in SkyPilot's catalogues that no other test asks for.
CATALOGUE = """
RTXA4500 RTXA2000 RTX5000-Ada RTX2000-Ada RTX6000 RTX5000 RTX4000 Quadro-RTX-6000 RTXPRO6000-SE
RTXPRO6000-WK RTX3060 RTX3070 RTX3080 RTX3080Ti RTX3090Ti RTX4060Ti RTX4070 RTX4070Ti RTX4080 GTX1060
GTX1070 GTX1080 GTX1080Ti TitanV TitanRTX M4000 P40 P4000 P5000 P6000 K520 A2 A16 V520 Radeon-Pro-V520 MI50
MI308X Gaudi Gaudi-HL205 Habana A100-40G H100-80G V100-16G
"""


@pytest.mark.parametrize("spelling", CATALOGUE.split())
def test_a_name_of_a_public_catalogue_is_known(spelling: str) -> None:
    assert accelerator(spelling).memory_gib


def test_every_vendor_of_the_market_is_there() -> None:
    assert len(KINDS) >= 40
    western = {"NVIDIA", "AMD", "Intel", "Google", "AWS"}
    chinese = {"Huawei", "Cambricon", "Hygon", "Kunlunxin", "Biren", "MetaX", "Enflame"}
    assert western | chinese | {"Moore Threads", "Iluvatar CoreX"} <= {kind.vendor for kind in KINDS}
    assert {"CPU-x86", "CPU-ARM"} <= accelerators().keys()


def test_no_spelling_means_two_kinds() -> None:
    spellings = Counter(
        spelling.lower().replace("_", "-").replace(" ", "-")
        for kind in KINDS
        for spelling in {name.lower() for name in (kind.name, *kind.aliases)}
    )
    assert [spelling for spelling, count in spellings.items() if count > 1] == []


@pytest.mark.parametrize(
    ("spelling", "canonical"),
    [
        ("H100", "H100-SXM"),
        ("h100-80gb", "H100-SXM"),
        ("H100-MEGA", "H100-SXM"),
        ("H200", "H200"),
        ("A100", "A100-40GB-SXM"),  # SkyPilot's A100 is the small one
        ("A100-80GB", "A100-80GB-SXM"),
        ("A100-80GB-SXM", "A100-80GB-SXM"),
        ("V100", "V100-16GB"),
        ("V100-32GB", "V100-32GB"),
        ("A10G", "A10G"),
        ("L4", "L4"),
        ("T4", "T4"),
        ("A6000", "RTXA6000"),
        ("RTX6000-Ada", "RTX6000-Ada"),
        ("tpu-v5e", "TPUv5e"),
        ("tpu-v5litepod", "TPUv5e"),
        ("TPU_V6E", "TPUv6e"),
        ("Ascend 910B", "Ascend910B2"),
        ("cpu", "CPU-x86"),
        ("aarch64", "CPU-ARM"),
        ("A100-80G", "A100-80GB-SXM"),
        ("V100-32G", "V100-32GB"),
        ("RTX6000", "Quadro-RTX-6000"),  # as clouds sell it: the Turing card
        ("RTX4000", "Quadro-RTX-4000"),
        ("RTX-5000-Ada", "RTX5000-Ada"),
        ("RTXPRO6000-BSE", "RTXPRO6000"),
        ("RTX3080-Ti", "RTX3080Ti"),
        ("TitanXp", "TITAN-Xp"),
        ("Radeon Pro V520", "V520"),
        ("Gaudi HL-205", "Gaudi"),
        ("tpu-v7", "TPUv7x"),
    ],
)
def test_other_peoples_names_are_understood(spelling: str, canonical: str) -> None:
    assert accelerator(spelling).name == canonical


@pytest.mark.parametrize(
    ("spelling", "nearest"), [("H10O", "H100-SXM"), ("ascend910d", "Ascend910B2"), ("MI300Y", "MI300X")]
)
def test_a_mistyped_kind_is_refused_with_the_nearest(spelling: str, nearest: str) -> None:
    with pytest.raises(Refused) as refused:
        accelerator(spelling)
    assert refused.value.code == "unknown_accelerator"
    assert nearest in refused.value.fields["nearest"] and nearest in refused.value.hint


def test_a_name_like_nothing_is_refused_with_the_next_command() -> None:
    with pytest.raises(Refused) as refused:
        accelerator("????????")
    assert refused.value.fields["nearest"] == [] and "suan" in refused.value.hint


def test_borrowed_figures_keep_their_attribution() -> None:
    borrowed = [
        kind.name for kind in KINDS if any("CC-BY-SA-4.0" in source for source in kind.sources.values())
    ]
    assert "H100-SXM" in borrowed
    assert "Open Book" in (DOCS / "accelerators.md").read_text("utf-8")


def test_the_reference_page_is_made_from_the_table() -> None:
    page = runpy.run_path(str(DOCS / "make_accelerators.py"))["page"]()
    assert (DOCS / "accelerators.md").read_text("utf-8") == page, "run docs/reference/make_accelerators.py"


def test_importing_the_module_does_not_read_the_table() -> None:
    program = "import sys, suan.grid.hardware as h; sys.exit(h.accelerators.cache_info().currsize)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
