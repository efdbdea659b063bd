"""What Slurm answers in JSON, of both generations, as nodes and jobs.

Knows the two dialects: that of 22.05 (v0.0.38), where a state is a word and a number is a number, and that of
23.11 and later (v0.0.40 to v0.0.42), where a state is a list and a number may be {set, infinite, number}.
Does not know how the answer was got. Unknown fields are passed over: each release adds some.
Source: answers of slurmrestd and of the commands' --json of 22.05.8 and 24.11.5, recorded 2026-11-22 in
tests/engines/slurm_answers; dialects of releases between these two are read by the same rules.
"""

import re
from typing import Any

import msgspec

from suan.grid.error import SiteTrouble

# A node in one of these states, or with one of these flags, gets no new work. Powered-down nodes do: Slurm
# starts them. Source: slurm.schedmd.com/sinfo.html, node state codes.
_UNUSABLE = frozenset(
    ["DOWN", "ERROR", "FUTURE", "UNKNOWN", "DRAIN", "FAIL", "NOT_RESPONDING", "MAINTENANCE", "RESERVED"]
)
# Of a job that will never run again. Source: slurm.schedmd.com/squeue.html, job state codes.
_OVER = frozenset(
    [
        "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY",
        "PREEMPTED", "REVOKED", "TIMEOUT",
    ]
)  # fmt: skip
_GRES = re.compile(r"(?P<name>[A-Za-z_]\w*)(?::(?P<type>[^:,()]+))?:(?P<count>\d+)(?:\([^)]*\))?")


class Gres(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of a node's generic resources: `gpu:h100:4`."""

    name: str
    type: str
    count: int

    @property
    def request(self) -> str:
        return f"{self.name}:{self.type}" if self.type else self.name


class Node(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    address: str
    states: tuple[str, ...]
    partitions: tuple[str, ...]
    features: tuple[str, ...]
    gres: tuple[Gres, ...]
    gres_used: tuple[Gres, ...]
    cores: int  # that jobs may use
    cores_used: int
    threads_per_core: int
    memory_mib: int
    architecture: str

    @property
    def usable(self) -> bool:
        return not _UNUSABLE.intersection(self.states)


class Job(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    name: str
    states: tuple[str, ...]  # the first is the state, the others are flags
    reason: str = ""
    nodes: str = ""  # "" before it has been given any

    @property
    def over(self) -> bool:
        """Whether none of its processes is left and none will be started."""
        return self.states[0] in _OVER and "COMPLETING" not in self.states

    @property
    def pending(self) -> bool:
        return self.states[0] in ("PENDING", "REQUEUED", "SPECIAL_EXIT", "REQUEUE_HOLD")


def nodes_of(answer: bytes) -> tuple[Node, ...]:
    """The nodes in the answer, by name.

    Raises: SiteTrouble `slurm_answer`.
    """
    return tuple(sorted(map(_node, _rows(answer, "nodes")), key=lambda node: node.name))


def jobs_of(answer: bytes) -> tuple[Job, ...]:
    """The jobs in the answer, those that ended a short while ago included.

    Raises: SiteTrouble `slurm_answer`.
    """
    return tuple(
        Job(
            id=_number(row.get("job_id")),
            name=str(row.get("name") or ""),
            states=_words(row.get("job_state")) or ("UNKNOWN",),
            reason=str(row.get("state_reason") or ""),
            nodes=str(row.get("nodes") or ""),
        )
        for row in _rows(answer, "jobs")
    )


def submitted_of(answer: bytes) -> int:
    """The id of the job that the answer says was taken.

    Raises: SiteTrouble `slurm_answer`.
    """
    taken = _decoded(answer)
    job = _number(taken.get("job_id") or (taken.get("result") or {}).get("job_id"))
    if job <= 0:
        raise SiteTrouble("slurm_answer", f"Slurm took a job and did not name it: {answer[:200]!r}")
    return job


def errors_of(answer: bytes) -> str:
    """What Slurm says went wrong, in its own words; "" when it says nothing."""
    try:
        errors = _decoded(answer).get("errors") or []
    except SiteTrouble:
        return answer[:200].decode("utf-8", "replace").strip()
    said = []
    for error in errors:
        words = [error.get(name) for name in ("description", "error")] if isinstance(error, dict) else [error]
        said += [str(word) for word in words if word]
    return "; ".join(dict.fromkeys(said))


def gres_of(text: str) -> tuple[Gres, ...]:
    """`gpu:h100:4(S:0-1),shard:8` as entries; without a count there is none."""
    found = []
    for entry in _GRES.finditer(text or ""):
        device_type = entry["type"] or ""
        found.append(
            Gres(
                name=entry["name"],
                type="" if device_type in ("(null)", "no_type") else device_type,
                count=int(entry["count"]),
            )
        )
    return tuple(found)


# ---------------------------------------------------------------- dialects


def _decoded(answer: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(answer)
    except msgspec.DecodeError as error:
        start = answer[:120].decode("utf-8", "replace")
        raise SiteTrouble("slurm_answer", f"Slurm's answer is no JSON ({error}): {start!r}") from error
    if not isinstance(decoded, dict):
        raise SiteTrouble("slurm_answer", "Slurm's answer is no JSON object")
    return decoded


def _rows(answer: bytes, name: str) -> list[dict[str, Any]]:
    decoded = _decoded(answer)
    rows = decoded.get(name)
    # While slurmctld is down, the commands of 22.05 answer with no rows, an error among the text, and code 0.
    if not isinstance(rows, list) or decoded.get("errors"):
        raise SiteTrouble(
            "slurm_answer", f"Slurm's answer has no {name}: {errors_of(answer) or 'no reason given'}"
        )
    return [row for row in rows if isinstance(row, dict)]


def _node(row: dict[str, Any]) -> Node:
    threads = max(1, _number(row.get("threads")))
    # Cores that are kept for the system are not for jobs; older servers do not say, and their count is of
    # all.
    cpus = _number(row.get("effective_cpus")) or _number(row.get("cpus"))
    return Node(
        name=str(row.get("name") or ""),
        address=str(row.get("address") or row.get("hostname") or ""),
        states=_words(row.get("state")) + _words(row.get("state_flags")),
        partitions=tuple(row.get("partitions") or ()),
        features=_features(row.get("active_features") or row.get("features")),
        gres=gres_of(str(row.get("gres") or "")),
        gres_used=gres_of(str(row.get("gres_used") or "")),
        cores=cpus // threads,
        cores_used=-(-_number(row.get("alloc_cpus")) // threads),
        threads_per_core=threads,
        memory_mib=_number(row.get("real_memory")),
        architecture=str(row.get("architecture") or ""),
    )


def _number(value: Any) -> int:
    """0 for what is not set, infinite or no number."""
    if isinstance(value, dict):
        value = value.get("number") if value.get("set", True) and not value.get("infinite") else 0
    return int(value) if isinstance(value, int | float) else 0


def _words(value: Any) -> tuple[str, ...]:
    """States in capitals: from "idle", ["IDLE", "DRAIN"], or {"current": ...}."""
    if isinstance(value, dict):
        value = value.get("current")
    if isinstance(value, str):
        value = re.split(r"[+\s]+", value)
    return tuple(str(word).upper() for word in value or () if word)


def _features(value: Any) -> tuple[str, ...]:
    return (
        tuple(value.replace("&", ",").split(",")) if isinstance(value, str) and value else tuple(value or ())
    )
