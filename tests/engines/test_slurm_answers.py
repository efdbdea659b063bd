"""Slurm's two dialects, read from what 22.05.8 and 24.11.5 really said of one cluster (SOURCE.md beside
them).
"""

from pathlib import Path

import pytest

from suan.engines.slurm_answers import Gres, Node, errors_of, gres_of, jobs_of, nodes_of, submitted_of
from suan.engines.slurm_node import expanded, gres_indices_in
from suan.engines.slurm_pools import accelerator_of, inventory
from suan.grid.error import SiteTrouble

ANSWERS = Path(__file__).parent / "slurm_answers"
VERSIONS = ("v0.0.38", "v0.0.40", "v0.0.42")


@pytest.mark.parametrize("version", VERSIONS)
def test_nodes(version: str) -> None:
    c1, g1, g2 = nodes_of((ANSWERS / f"{version}-nodes.json").read_bytes())
    assert (c1.name, c1.cores, c1.threads_per_core, c1.memory_mib, c1.usable) == ("c1", 2, 2, 8000, False)
    assert "DRAIN" in c1.states
    assert (g1.usable, g1.cores, g1.address, g1.features) == (True, 8, "127.0.0.1", ("nvlink",))
    assert g1.partitions == ("main", "urgent")
    assert g1.gres == (Gres(name="gpu", type="h100", count=4),)
    assert Gres(name="gpu", type="h100", count=2) in g1.gres_used
    assert [gres.request for gres in g2.gres] == ["gpu:nvidia_a100-sxm4-80gb", "npu:910b3"]


@pytest.mark.parametrize("version", VERSIONS)
def test_jobs(version: str) -> None:
    jobs = {job.name: job for job in jobs_of((ANSWERS / f"{version}-jobs.json").read_bytes())}
    assert (jobs["suan-x-gpu"].states[0], jobs["suan-x-gpu"].nodes) == ("RUNNING", "g1")
    assert not jobs["suan-x-gpu"].over
    assert (jobs["suan-x-fails"].states[0], jobs["suan-x-fails"].over) == ("FAILED", True)
    assert (jobs["suan-x-waits"].pending, jobs["suan-x-waits"].reason) == (True, "Resources")
    cancelled = jobs["suan-x-cancelled"]
    assert (cancelled.states[0], cancelled.over, cancelled.nodes) == ("CANCELLED", True, "")


@pytest.mark.parametrize("version", VERSIONS)
def test_pools_of_a_mixed_cluster(version: str) -> None:
    nodes = nodes_of((ANSWERS / f"{version}-nodes.json").read_bytes())
    found = inventory(nodes, {"main": True, "urgent": False})
    offered = found.offered()
    assert {name: one.pool.accelerator for name, one in offered.items()} == {
        "main-a100-80gb-sxm": "A100-80GB-SXM",
        "main-ascend910b3": "Ascend910B3",
        "main-cpu-x86": "CPU-x86",
        "main-h100-sxm": "H100-SXM",
    }
    h100 = offered["main-h100-sxm"]
    assert (h100.gres, h100.others, h100.free_devices, h100.free_nodes) == ("gpu:h100", ("c1", "g2"), 2, 0)
    assert offered["main-cpu-x86"].pool.nodes == 0, "its only node is drained"
    assert [one.pool.name for one in found.pools if one.overlaps] == ["urgent"]
    assert len(found.lacks) == 1 and "urgent shares nodes with main" in found.lacks[0]


def test_an_answer_with_an_error_is_no_answer() -> None:
    """So say the commands of 22.05 while slurmctld is down, and exit with code 0."""
    down = b'{"errors": [{"description": "Failed while looking for jobs"}], "jobs": []}'
    with pytest.raises(SiteTrouble) as trouble:
        jobs_of(down)
    assert "Failed while looking for jobs" in trouble.value.what
    for broken in (b"", b"[]", b"slurm_load_jobs error", b'{"jobs": null}'):
        with pytest.raises(SiteTrouble):
            jobs_of(broken)


def test_submissions_and_errors() -> None:
    assert submitted_of(b'{"job_id": 7, "errors": []}') == 7
    assert submitted_of(b'{"result": {"job_id": 8}, "job_id": 8}') == 8
    with pytest.raises(SiteTrouble):
        submitted_of(b"{}")
    assert errors_of(b'{"errors": [{"description": "Batch job submission failed", "error": "Invalid"}]}') == (
        "Batch job submission failed; Invalid"
    )


def test_gres_as_sites_write_it() -> None:
    assert gres_of("gpu:h100:4(S:0-1),shard:8") == (
        Gres(name="gpu", type="h100", count=4),
        Gres(name="shard", type="", count=8),
    )
    assert gres_of("gpu:2(IDX:0,1)") == (Gres(name="gpu", type="", count=2),)
    assert gres_of("gpu:(null):0(IDX:N/A)") == ()
    assert gres_of("") == gres_of("(null)") == ()


@pytest.mark.parametrize(
    ("spelt", "features", "kind"),
    [
        ("h100", (), "H100-SXM"),
        ("nvidia_h100_80gb_hbm3", (), "H100-SXM"),
        ("nvidia_a100-sxm4-80gb", (), "A100-80GB-SXM"),
        ("tesla_v100-sxm2-32gb", (), "V100-32GB"),
        ("", ("ib", "h100"), "H100-SXM"),
        ("", ("h100", "v100"), ""),
        ("", (), ""),
        ("quantum9000", (), ""),
    ],
)
def test_accelerators_by_any_spelling(spelt: str, features: tuple[str, ...], kind: str) -> None:
    assert accelerator_of(Gres(name="gpu", type=spelt, count=1), features) == kind


def test_what_cannot_be_offered_is_said() -> None:
    node = Node(
        name="x1", address="", states=("IDLE",), partitions=("p",), features=(), gres_used=(), cores=8,
        gres=(Gres(name="gpu", type="", count=4), Gres(name="gpu", type="1g.10gb", count=7)),
        cores_used=0, threads_per_core=1, memory_mib=1, architecture="x86_64",
    )  # fmt: skip
    found = inventory((node,), {"p": True})
    assert found.pools == ()
    assert any("has no type" in lack for lack in found.lacks)
    assert any("gpu:1g.10gb is in no row" in lack for lack in found.lacks)


def test_names_and_devices_of_nodes() -> None:
    assert expanded("g[01-03,10],h7") == ["g01", "g02", "g03", "g10", "h7"]
    text = "Id=2   Nodes=g[1-2] CPU_IDs=0 GRES=npu:910b3:3(IDX:0-1,5) \n   Nodes=g3 GRES=npu:910b3:1(IDX:7)"
    assert gres_indices_in(text, "npu:910b3", "g2") == "0,1,5"
    assert gres_indices_in(text, "npu:910b3", "g3") == "7"
    assert gres_indices_in(text, "npu:910b", "g4") == ""
    for release in ("22.05", "24.11"):
        said = (ANSWERS / f"{release}-show-job.txt").read_text()
        assert gres_indices_in(said, "npu:910b3", "g2") == "0"
