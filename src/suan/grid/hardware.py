"""Accelerators as data: one table an accelerator kind in accelerators.toml, read once.

Knows what each chip can do at its peak and what each layer of software calls it. Does not know what work
achieves on it.
"""

from functools import cache

import msgspec

from suan.grid.error import Refused

CPU_DEVICE_CLASS = "cpu"


class Accelerator(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of device. Peaks are dense, per device; a missing number was not published."""

    name: str
    vendor: str
    device_class: str  # gpu | npu | tpu | cpu
    year: int | None = None
    peak_tflops: dict[str, float] = {}  # dtype -> dense TFLOP/s (TOP/s for int8)
    measured_matmul_tflops: dict[str, float] = {}  # best matmul rate somebody measured
    memory_gib: float | None = None
    memory_gb_per_s: float | None = None
    link: str = ""  # scale-up link, as the vendor calls it
    link_gb_per_s: float | None = None  # one direction, per device
    link_domain: int | None = None  # devices in one scale-up domain
    tdp_w: float | None = None
    visible_env: str = ""  # variable that pins devices to a process
    torch_device: str = ""
    kubernetes_resource: str = ""
    slurm_gres: str = ""
    aliases: tuple[str, ...] = ()  # SkyPilot's and vendors' other names
    sources: dict[str, str] = {}  # field -> where its number is from, spelled out
    notes: str = ""


@cache
def accelerators() -> dict[str, Accelerator]:
    """Every accelerator kind by canonical name, in the table's order."""
    # Here and not above: most commands never open the table, and these cost more than the rest of the module.
    import tomllib
    from importlib.resources import files

    table = tomllib.loads(files("suan.grid").joinpath("accelerators.toml").read_text("utf-8"))
    citations = table.pop("citations")
    kinds = {}
    for name, row in table.items():
        sources = {field: _spelled_out(source, citations) for field, source in row["sources"].items()}
        kinds[name] = msgspec.convert({"name": name, **row, "sources": sources}, Accelerator)
    return kinds


def _spelled_out(source: str, citations: dict[str, str]) -> str:
    """`key: how` with the citation in place of its key. An unknown key is a fault of the table: KeyError."""
    key, _, how = source.partition(": ")
    return f"{citations[key]}: {how}" if how else citations[key]


@cache
def _by_spelling() -> dict[str, str]:
    spelling: dict[str, str] = {}
    for accelerator in accelerators().values():
        for name in (accelerator.name, *accelerator.aliases):
            spelling.setdefault(_fold(name), accelerator.name)
    return spelling


def _fold(name: str) -> str:
    return name.lower().replace("_", "-").replace(" ", "-")


@cache
def _called(name: str) -> Accelerator | None:
    canonical = _by_spelling().get(_fold(name))
    return None if canonical is None else accelerators()[canonical]


def accelerator(name: str) -> Accelerator:
    """The accelerator called `name`; case, `_` and SkyPilot's spellings do not matter.

    Raises: Refused `unknown_accelerator` with the nearest known names.
    """
    known = _called(name)
    if known is None:
        import difflib  # slow to import, and needed only here

        near = difflib.get_close_matches(_fold(name), _by_spelling(), n=3, cutoff=0.5)
        nearest = list(dict.fromkeys(_by_spelling()[spelling] for spelling in near))
        hint = (
            f"did you mean {' or '.join(nearest)}?"
            if nearest
            else "list them with: suan sites --accelerators"
        )
        raise Refused("unknown_accelerator", f"no accelerator is called {name!r}", hint=hint, nearest=nearest)
    return known
