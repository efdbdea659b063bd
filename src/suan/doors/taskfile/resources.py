"""`resources:` as alternatives of node kinds; what only a cloud could honour becomes a note."""

import itertools
import math
import re

import msgspec

from suan.doors.taskfile.document import Mapping, Scalar, Sequence, Spot
from suan.doors.taskfile.keys import Keys, as_text, as_whole, at, first_of, kind, positive, refuse
from suan.grid.error import Refused
from suan.grid.hardware import accelerator, accelerators
from suan.grid.job import Resources

MAX_ALTERNATIVES = 200
MAX_PORTS = 1024

_PICKS_SITE = "the grid picks the site; to choose one yourself use place:"
_SET_ASIDE = {
    "cloud": _PICKS_SITE,
    "region": _PICKS_SITE,
    "zone": _PICKS_SITE,
    "infra": _PICKS_SITE,
    "instance_type": "clouds' machine types are unknown here; name accelerators:, cpus: and memory:",
    "image_id": "the run sees its site's own system; install what is missing in setup:",
    "disk_tier": "sites do not tell disks apart",
    "network_tier": "a run on several nodes stays inside one pool and uses its network",
    "local_disk": "sites do not tell disks apart",
    "labels": "sites carry their own labels",
    "accelerator_args": "the site's own runtime is used",
    "autostop": "devices are given back as soon as the run ends",
    "priority": "the grid knows online, standard and valley; write priority: at the top",
    "priority_class": "the grid knows online, standard and valley; write priority: at the top",
    "max_hourly_cost": "it counts dollars an hour; bound the whole job with max_cost: in CNY",
    "volumes": "the grid mounts no cloud disks; keep data as artifacts under inputs: and outputs:",
    "hooks": "a run gets SIGTERM and 10 s before it is stopped",
    "_cluster_config_overrides": "it is SkyPilot's own bookkeeping",
    "_docker_login_config": "it is SkyPilot's own bookkeeping",
    "_is_image_managed": "it is SkyPilot's own bookkeeping",
    "_requires_fuse": "it is SkyPilot's own bookkeeping",
    "_no_missing_accel_warnings": "it is SkyPilot's own bookkeeping",
}
_SIZE_GIB = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([kmgtp]?)(?:i?b|i)?", re.IGNORECASE)
_GIB = {"k": 2.0**-20, "m": 2.0**-10, "": 1.0, "g": 1.0, "t": 2.0**10, "p": 2.0**20}
_BY_MEMORY = re.compile(r"(?:([a-z ]+):)?([0-9]+)([gmt])b(\+?)(?::([0-9]+))?", re.IGNORECASE)
_TPU_SLICE = re.compile(r"(tpu-v([0-9]+)[a-z]*)-([0-9]{1,5})", re.IGNORECASE)


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a task asks of its nodes."""

    resources: tuple[Resources, ...] = (Resources(),)
    ordered: bool = False
    max_restarts: int | None = None


def read_resources(spot: Spot, notes: list[str]) -> Wanted:
    """The alternatives under `resources:`, `any_of` and `ordered` filled in from the keys beside them.

    Raises: Refused `bad_key`, `bad_type`, `bad_value`, `conflicting_keys`, `unknown_accelerator`.
    """
    keys = Keys(spot, "resources", notes)
    branch = first_of(keys, ("any_of", "ordered"))
    branches = keys.take(branch) if branch else None
    keys.take("any_of"), keys.take("ordered")
    if branches is None:
        return _one(keys)
    if not isinstance(branches, Sequence) or not branches.items:
        refuse(
            branches,
            keys.at(branch or ""),
            "bad_type",
            f"must be a list, not {kind(branches)}",
            "write - KEY: VALUE",
        )
    for name, why in _SET_ASIDE.items():  # once, not once a branch
        keys.set_aside(name, why)
    found = [Wanted(resources=(), max_restarts=_recovery(keys))]
    once = {"any_of", "ordered", "job_recovery", "spot_recovery", *_SET_ASIDE}
    rest = {name: value for name, value in keys.spot.items.items() if name not in once}
    for index, item in enumerate(branches.items):
        path = f"resources.{branch}[{index}]"
        inner = Keys(item, path, notes).spot
        filled = msgspec.structs.replace(
            inner,
            items={**rest, **inner.items},
            key_spots={name: (inner.key_spots | keys.spot.key_spots)[name] for name in (*rest, *inner.items)},
        )
        found.append(_one(Keys(filled, path, notes)))
    alternatives = tuple(dict.fromkeys(itertools.chain.from_iterable(wanted.resources for wanted in found)))
    _check_count(branches, alternatives)
    restarts = max((wanted.max_restarts for wanted in found if wanted.max_restarts is not None), default=None)
    return Wanted(resources=alternatives, ordered=branch == "ordered", max_restarts=restarts)


def size_gib(text: str) -> float:
    """GiB in `16`, `16+`, `16GB`, `512MiB`: SkyPilot counts in powers of 1024 and a bare number is GiB.

    Raises: Refused `bad_value`.
    """
    match = _SIZE_GIB.fullmatch(text.strip().removesuffix("+").strip())
    size = float(match[1]) * _GIB[match[2].lower()] if match and len(text) < 40 else 0.0
    if not 0 < size < 1e9:
        raise Refused("bad_value", f"{text[:60]!r} is not a size", hint="write 16, 16+ or 64GB")
    return size


def _one(keys: Keys) -> Wanted:
    given = first_of(keys, ("accelerators", "gpus"))
    spot = keys.take(given) if given else None
    keys.take("accelerators"), keys.take("gpus")
    choices, ordered = _accelerators(spot, keys.at(given or ""), keys.notes) if spot else ([("", 0)], False)
    cpus = keys.parsed("cpus", lambda text: positive(text.strip().removesuffix("+")))
    memory_gib = keys.parsed("memory", size_gib)
    disk = [keys.parsed(name, size_gib) for name in ("disk_size", "ephemeral_storage")]
    shape = Resources(
        cpus=cpus or 1.0,
        memory_gib=memory_gib or 0.0,
        disk_gib=max((gib for gib in disk if gib), default=0.0),
        use_spot=keys.flag("use_spot"),
        ports=_ports(keys),
    )
    restarts = _recovery(keys)
    for name, why in _SET_ASIDE.items():
        keys.set_aside(name, why)
    keys.close()
    alternatives = [
        msgspec.structs.replace(shape, accelerator=name, accelerators=count) for name, count in choices
    ]
    _check_count(keys.spot, alternatives)
    return Wanted(resources=tuple(dict.fromkeys(alternatives)), ordered=ordered, max_restarts=restarts)


def _check_count(spot: Spot, alternatives: "list[Resources] | tuple[Resources, ...]") -> None:
    if len(alternatives) > MAX_ALTERNATIVES:
        what = f"offers {len(alternatives)} alternatives, more than {MAX_ALTERNATIVES}"
        refuse(spot, "resources", "too_big", what, "name fewer")


def _accelerators(spot: Spot, path: str, notes: list[str]) -> tuple[list[tuple[str, int]], bool]:
    """(canonical name, devices a node) of each choice, and whether their order counts: it does in a list."""
    asked: list[tuple[Spot, str, Spot | None]]
    match spot:
        case Mapping() if spot.items:
            asked = [(spot.key_spots[name], name, value) for name, value in spot.items.items()]
        case Sequence() if spot.items:
            asked = [(item, as_text(item, path), None) for item in spot.items]
        case Scalar():
            asked = [(spot, as_text(spot, path), None)]
        case _:
            refuse(spot, path, "bad_value", "names no accelerator", "write H100:8")
    choices: list[tuple[str, int]] = []
    for where, text, count in asked:
        with at(where, path):
            suffix = (
                ""
                if count is None or (isinstance(count, Scalar) and count.value is None)
                else as_text(count, path)
            )
            choices.extend(_choice(f"{text}:{suffix}" if suffix else text, path, notes))
    return list(dict.fromkeys(choices)), isinstance(spot, Sequence) and len(choices) > 1


def _choice(text: str, path: str, notes: list[str]) -> list[tuple[str, int]]:
    text = text.strip()
    if len(text) > 100:
        raise Refused("unknown_accelerator", f"{text[:60]!r}… names no accelerator", hint="write H100:8")
    by_memory = _BY_MEMORY.fullmatch(text)
    if by_memory:
        return _by_memory(text, by_memory)
    name, _, count_text = text.rpartition(":") if ":" in text else (text, "", "1")
    asked = positive(count_text.strip())
    if asked > 100_000:
        raise Refused(
            "bad_value", f"{count_text} devices a node are more than any node has", hint="use num_nodes"
        )
    count = math.ceil(asked)
    if count != asked:
        notes.append(
            f"{path}: {text} takes {count} whole device{'s'[: count > 1]}; the grid does not split one"
        )
    pod = _TPU_SLICE.fullmatch(name.strip())
    if pod:
        return [_tpu_slice(text, pod, path, notes)]
    return [(accelerator(name.strip()).name, count)]


def _tpu_slice(text: str, pod: re.Match[str], path: str, notes: list[str]) -> tuple[str, int]:
    """Cloud TPU slices of v2 to v4 and v5p are named by cores, two a chip; v5e and v6e by chips.

    Source: Google Cloud, "TPU versions" (accelerator types), read 2026.
    """
    by_chips = pod[1].lower() in ("tpu-v5e", "tpu-v5litepod", "tpu-v6e")
    chips = int(pod[3]) if by_chips else math.ceil(int(pod[3]) / 2)
    if chips < 1:
        raise Refused("bad_value", f"{text!r} has no chips", hint="write tpu-v5e-8")
    if chips > 8:
        notes.append(
            f"{path}: {text} is asked for as one node of {chips} chips; for several hosts use num_nodes"
        )
    return accelerator(pod[1]).name, chips


def _by_memory(text: str, match: re.Match[str]) -> list[tuple[str, int]]:
    """`80GB+`, `32GB:2`, `nvidia:24GB+:4`: every GPU of the table with so much memory."""
    vendor, amount, unit, plus, count = match.groups()
    want_gib = float(amount) * _GIB[unit.lower()] if len(amount) < 9 else math.inf
    names = [
        kind.name
        for kind in accelerators().values()
        if kind.device_class == "gpu"
        and kind.memory_gib is not None
        and (kind.memory_gib >= want_gib if plus else kind.memory_gib == want_gib)
        and (not vendor or kind.vendor.lower() == vendor.strip().lower())
    ]
    devices = int(count or 1) if len(count or "1") < 6 else 0
    if not names or not devices:
        raise Refused("unknown_accelerator", f"no accelerator fits {text[:60]!r}", hint="try 24GB+ or a name")
    return [(name, devices) for name in names]


def _ports(keys: Keys) -> tuple[int, ...]:
    path = keys.at("ports")
    spot = keys.spot.items.get("ports")
    ports: dict[int, None] = {}
    for text in keys.texts("ports"):
        first, dash, last = text.strip().partition("-")
        bounds = [part.strip() for part in ((first, last) if dash else (first, first))]
        assert spot is not None
        if not all(
            part.isascii() and part.isdigit() and len(part) < 6 and 0 < int(part) < 65536 for part in bounds
        ):
            refuse(spot, path, "bad_value", f"{text[:40]!r} is not a port", "write 8080 or 10000-10010")
        low, high = int(bounds[0]), int(bounds[1])
        if low > high or high - low >= MAX_PORTS or len(ports) >= MAX_PORTS:
            refuse(
                spot,
                path,
                "bad_value",
                f"{text[:40]!r} opens no range of 1 to {MAX_PORTS} ports",
                "write fewer",
            )
        ports.update(dict.fromkeys(range(low, high + 1)))
    return tuple(ports)


def _recovery(keys: Keys) -> int | None:
    """`max_restarts_on_errors` of job_recovery; how to recover is the grid's business."""
    keys.set_aside("spot_recovery", "a job that loses its site or is preempted is always placed again")
    spot = keys.spot.items.get("job_recovery")
    if not isinstance(spot, Mapping):
        keys.set_aside("job_recovery", "a job that loses its site or is preempted is always placed again")
        return None
    inner = Keys(spot, keys.at("job_recovery"), keys.notes)
    keys.take("job_recovery")
    inner.set_aside("strategy", "the grid places a job again wherever that is best")
    inner.set_aside("recover_on_exit_codes", "max_restarts counts every failure alike")
    value = inner.take("max_restarts_on_errors")
    for name in inner.spot.items:
        if name not in ("strategy", "recover_on_exit_codes", "max_restarts_on_errors"):
            inner.set_aside(name, "it belongs to a recovery plugin of SkyPilot's")
    return None if value is None else as_whole(value, inner.at("max_restarts_on_errors"))
