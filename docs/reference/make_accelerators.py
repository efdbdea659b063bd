"""Prints accelerators.md from the table of accelerator kinds:

python docs/reference/make_accelerators.py > docs/reference/accelerators.md
"""

from suan.grid.hardware import Accelerator, accelerators

HEAD = """# Accelerators

Every kind of device that the grid knows, from `src/suan/grid/accelerators.toml`; this page is made from it by
`docs/reference/make_accelerators.py`. A device is one accelerator; in a CPU kind it is one core.

Peaks are dense, in TFLOP/s (TOP/s for int8). Links are one direction, per device. A dash: not published, or
not known. Each number's source stands beside it in the table; figures marked there as `ml-engineering` were
collected in the [Machine Learning Engineering Open Book](https://github.com/stas00/ml-engineering) by Stas
Bekman, CC-BY-SA-4.0. An asterisk marks a kind with figures (years apart) not read again at their source.
"""
DTYPES = ("bf16", "fp16", "fp8", "fp4", "int8", "fp32")


def text(number: float | None) -> str:
    return "–" if number is None else f"{number:g}"


def row(kind: Accelerator) -> str:
    recalled = any("recalled" in source for field, source in kind.sources.items() if field != "year")
    link = f"{kind.link} {text(kind.link_gb_per_s)} × {text(kind.link_domain)}" if kind.link else "–"
    cells = (
        kind.name + (" *" if recalled else ""),
        *(text(kind.peak_tflops.get(dtype)) for dtype in DTYPES),
        text(kind.measured_matmul_tflops.get("bf16")),
        text(kind.memory_gib),
        text(kind.memory_gb_per_s),
        link,
        text(kind.tdp_w),
    )
    return f"| {' | '.join(cells)} |"


def names(kind: Accelerator) -> str:
    code = (kind.visible_env, kind.torch_device, kind.kubernetes_resource, kind.slurm_gres)
    cells = (kind.name, ", ".join(kind.aliases), *(f"`{cell}`" if cell else "–" for cell in code), kind.notes)
    return f"| {' | '.join(cells)} |"


def page() -> str:
    """The whole page."""
    peaks = ("kind", *DTYPES, "bf16 measured", "GiB", "GB/s", "link GB/s × devices", "W")
    called = ("kind", "also called", "pinned by", "torch", "Kubernetes", "Slurm", "notes")
    blocks = [HEAD, "## What they can do", "", header(peaks), *map(row, accelerators().values())]
    blocks += ["", "## What software calls them", "", header(called), *map(names, accelerators().values())]
    return "\n".join(blocks) + "\n"


def header(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |\n|{' --- |' * len(cells)}"


if __name__ == "__main__":
    print(page(), end="")
