"""SkyPilot's task files are read unchanged, with SkyPilot's meaning."""

from pathlib import Path

import pytest

from suan.doors.rest.quotes import quotes_of
from suan.doors.taskfile import TaskFile, read_tasks
from suan.grid.job import Replicas
from suan.grid.state import State
from suan.rules.policy import Policy

FOLDER = Path(__file__).parent / "skypilot"
OUTSIDE = {"HF_TOKEN": "token", "BUCKET": "my-bucket"}
CPU = ("", 0)

# file -> for each task: name, nodes, (accelerator, devices a node) of its alternatives, in order
EXPECTED: dict[str, list[tuple[str, int, list[tuple[str, int]]]]] = {
    "admin_labels": [("admin-labels", 1, [CPU])],
    "amd_task": [("amd-task", 1, [("MI210", 1)])],
    "aws_neuron": [("aws-neuron", 1, [("A100-40GB-SXM", 1), ("Inferentia", 6)])],
    "axolotl_spot": [("axolotl", 1, [("A100-40GB-SXM", 1)])],
    "batch_pool": [("batch-pool", 1, [("H200", 1)])],
    "chain_two_jobs": [("simple-1", 1, [CPU]), ("simple-2", 1, [CPU])],
    "cosmos_finetune": [("cosmos3-nano-finetune", 1, [("H100-SXM", 8), ("H200", 8)])],
    "custom_image": [("custom-image", 1, [("V100-16GB", 1)])],
    "deepseek_a100": [("deepseek-r1-A100", 2, [("A100-80GB-SXM", 8)])],
    "disk_size": [("minimal", 1, [CPU])],
    "distributed_pytorch": [("minGPT-ddp-rdzv", 2, [("L4", 2)])],
    "elastic_job_group": [("controller", 1, [CPU]), ("workers", 1500, [CPU])],
    "empty_fields": [("task", 1, [CPU])],
    "file_mounts_all": [("file-mounts-all", 2, [CPU])],
    "game_server": [("game-server", 1, [CPU])],
    "gpt2_pipeline": [("gpt2-data", 1, [CPU]), ("train", 1, [("A100-40GB-SXM", 1)])],
    "job_recovery_restarts": [("recover", 1, [("A10G", 1)])],
    "legacy_inputs": [("resnet-app", 1, [("V100-16GB", 1)])],
    "llama3_serve": [
        (
            "llama3-serve",
            1,
            [("L4", 8), ("A10G", 8), ("A10", 8), ("A100-40GB-SXM", 4), ("A100-40GB-SXM", 8)]
            + [("A100-80GB-SXM", count) for count in (2, 4, 8)],
        )
    ],
    "managed_job_storage": [("managed-job-storage", 1, [CPU])],
    "multi_accelerators": [
        ("multi-accelerators", 1, [("A100-40GB-SXM", 1), ("V100-16GB", 1), ("K80", 1), ("T4", 1)])
    ],
    "nccl_efa": [("nccl-efa-vm", 2, [CPU])],
    "ordered_clouds": [("ordered", 4, [("H100-SXM", 8), ("A100-80GB-SXM", 8)])],
    "pipeline_four": [(name, 1, [CPU]) for name in ("a", "b", "eval1", "eval2")],
    "released_basic_cluster": [("released-basic-cluster", 1, [("A100-40GB-SXM", 8)])],
    "released_basic_managed_job": [("my-job", 1, [CPU])],
    "released_basic_pool": [("released-basic-pool", 1, [CPU])],
    "serve_dynamic_fallback": [("serve-dynamic-fallback", 1, [CPU])],
    "serve_https": [("serve-https", 1, [CPU])],
    "serve_min_replicas_zero": [("serve-min-replicas-zero", 1, [CPU])],
    "serve_ray": [("serve-ray", 1, [CPU])],
    "tpu_gke": [("tpu-gke", 1, [("TPUv5e", 4)])],
    "tpu_node_args": [("tpu_pod", 1, [("TPUv3", 16)])],
    "tpu_v6e_train": [("tpu-v6e-train", 1, [("TPUv6e", 8)])],
    "tpuvm_mnist": [("tpuvm_mnist", 1, [("TPUv2", 4)])],
    "vllm_service": [
        (
            "vllm-service",
            1,
            [("L4", 1), ("A10G", 1), ("A10", 1), ("A100-40GB-SXM", 1), ("A100-80GB-SXM", 1)],
        )
    ],
}


def read(name: str) -> TaskFile:
    path = FOLDER / f"{name}.yaml"
    return read_tasks(path.read_text("utf-8"), source=str(path), envs=OUTSIDE)


def test_every_file_in_the_folder_is_expected() -> None:
    names = {path.stem for path in FOLDER.glob("*.yaml")}
    assert names == {*EXPECTED, "memory_accelerators"}
    assert len(names) >= 30


@pytest.mark.parametrize("name", EXPECTED)
def test_tasks_nodes_and_accelerators(name: str) -> None:
    tasks = read(name).tasks
    seen = [
        (
            task.name,
            task.num_nodes,
            list(dict.fromkeys((one.accelerator, one.accelerators) for one in task.resources)),
        )
        for task in tasks
    ]
    assert seen == EXPECTED[name]


def test_shell_text_keeps_every_character() -> None:
    task = read("deepseek_a100").tasks[0]
    assert task.setup == 'echo "convert with \'[\\"x\\"]\'"\n'
    assert task.run == (
        "TP=$(($SKYPILOT_NUM_GPUS_PER_NODE * $SKYPILOT_NUM_NODES))\n"
        "python -m server --tp $TP --node-rank ${SKYPILOT_NODE_RANK}\n"
    )


def test_released_example_word_for_word() -> None:
    task = read("released_basic_cluster").tasks[0]
    assert task.setup == 'echo "Running setup."\n'
    assert task.run == 'echo "Hello, SkyPilot!"\nconda env list'


def test_envs_are_text_and_secrets_stay_apart() -> None:
    task = read("cosmos_finetune").tasks[0]
    assert task.envs["MAX_ITER"] == "500"
    assert "HF_TOKEN" not in task.envs
    assert task.secrets == {"HF_TOKEN": "token"}
    assert read("elastic_job_group").tasks[0].envs["MIN_WORKERS"] == "1000"


def test_a_variable_given_from_outside_fills_the_mount() -> None:
    task = read("axolotl_spot").tasks[0]
    assert task.envs["HF_TOKEN"] == "token"
    assert any("my-bucket" in note and "mounts no buckets" in note for note in task.notes)


def test_lists_keep_their_order_and_sets_do_not() -> None:
    assert read("multi_accelerators").tasks[0].resources_ordered
    assert read("ordered_clouds").tasks[0].resources_ordered
    assert not read("vllm_service").tasks[0].resources_ordered


def test_any_of_fills_in_from_the_keys_beside_it() -> None:
    spot, on_demand = read("deepseek_a100").tasks[0].resources
    assert (spot.use_spot, on_demand.use_spot) == (True, False)
    assert spot.disk_gib == on_demand.disk_gib == 2048
    assert spot.ports == on_demand.ports == (30000,)
    cheap = read("ordered_clouds").tasks[0].resources
    assert [one.use_spot for one in cheap] == [False, True, False]


def test_memory_picks_every_gpu_that_is_large_enough() -> None:
    task = read("memory_accelerators").tasks[0]
    names = {one.accelerator for one in task.resources}
    assert {"H100-SXM", "A100-80GB-SXM", "H200"} <= names
    assert names.isdisjoint({"A100-40GB-SXM", "MI300X", "L4"})
    assert {one.accelerators for one in task.resources} == {2}
    assert {one.memory_gib for one in task.resources} == {64.0}


def test_services() -> None:
    assert read("llama3_serve").tasks[0].replicas == Replicas(min=2, max=2)
    assert read("serve_min_replicas_zero").tasks[0].replicas == Replicas(min=0, max=2)
    assert read("serve_dynamic_fallback").tasks[0].replicas == Replicas(min=2, max=2)
    ray = read("serve_ray").tasks[0]
    assert ray.replicas == Replicas(min=1, max=1)
    assert ray.resources[0].ports == (8000,)


def test_pipelines_run_one_after_the_other() -> None:
    file = read("pipeline_four")
    assert file.name == "pipeline"
    for before, task in zip(file.tasks, file.tasks[1:], strict=False):
        assert task.after == (before.name,)
    assert not file.tasks[0].after


def test_a_parallel_group_has_no_order() -> None:
    file = read("elastic_job_group")
    assert file.name == "elastic-train"
    assert not any(task.after for task in file.tasks)


def test_local_paths_are_for_the_caller_to_upload() -> None:
    file = read("file_mounts_all")
    assert file.local[0].workdir == "."
    assert file.local[0].mounts["~/tmpfile2"] == "~/tmp-workdir/tmp file"
    assert file.local[0].mounts["/data/checkpoints/best.pt"] == "~/tmpfile"
    assert not any("://" in source for source in file.local[0].mounts.values())
    assert (file.tasks[0].workdir, file.tasks[0].file_mounts) == ("", {})
    assert sum("mounts no buckets" in note for note in file.tasks[0].notes) == 2
    storage = read("managed_job_storage").local[0]
    assert storage.mounts == {"~/bucket_workdir": "./examples", "/tmp/workdir": "~/tmp-workdir"}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("amd_task", "resources.cloud: kubernetes is set aside: the grid picks the site"),
        ("amd_task", "resources.image_id: rocm/pytorch:latest is set aside"),
        ("admin_labels", "resources.labels: is set aside"),
        ("nccl_efa", "resources.instance_type: p4d.24xlarge is set aside"),
        ("nccl_efa", "resources.network_tier: best is set aside"),
        ("batch_pool", "pool is set aside"),
        ("elastic_job_group", "workdir: https://example.com/elastic.git is set aside"),
        ("elastic_job_group", "resources.job_recovery.min_nodes: 1 is set aside"),
        ("job_recovery_restarts", "resources.priority: 500 is set aside"),
        ("job_recovery_restarts", "volumes: is set aside"),
        ("job_recovery_restarts", "config: is set aside"),
        ("legacy_inputs", "inputs.gs://cloud-tpu-test-datasets/fake_imagenet is set aside"),
        ("serve_https", "service.tls: is set aside"),
        ("empty_fields", "there is no run"),
    ],
)
def test_what_cannot_be_honoured_is_said(name: str, said: str) -> None:
    notes = read(name).tasks[0].notes
    assert any(note.startswith(said) for note in notes), notes


def test_restarts_come_from_job_recovery() -> None:
    assert read("job_recovery_restarts").tasks[0].max_restarts == 3


@pytest.mark.parametrize("name", EXPECTED)
def test_every_example_is_quoted(name: str) -> None:
    tasks = read(name).tasks
    quotes = quotes_of(State(), Policy(), "default", tasks, now_s=1_800_000_000)
    assert [quote.task.name for quote in quotes] == [task.name for task in tasks]
