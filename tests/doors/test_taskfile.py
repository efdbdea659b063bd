"""Our own keys, and what each wrong file is told."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from suan.doors.taskfile import TaskFile, read_tasks
from suan.grid.error import Refused
from suan.grid.job import Checkpoint, Elastic, Place, Priority, Replicas, Resources, Task

OURS = """
recipe: sft
with: {base: 'model:poet@3', lora_rank: 16, rate: 1e-4, on: yes}
inputs:  {corpus: 'dataset:tang'}
outputs: {model: 'model:poet-sft'}
priority: valley
deadline: 12h
max_cost: 1,300.50 CNY
checkpoint: {dir: $SUAN_CHECKPOINT, every: 10m}
elastic: {nodes: 1-8}
place: {sites: [east, west], regions: cn-north, not: [moon]}
replicas: {min: 0, max: 8, target_ttft_ms: 500}
duration: 1h30m
max_duration: 2d
max_restarts: 2
"""


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A registry of one stage, `sft`; what it was asked for."""
    asked: list[tuple[str, Any]] = []

    def recipe_task(stage: str, args: dict[str, Any]) -> Task:
        asked.append((stage, args))
        if stage != "sft":
            raise Refused("unknown_recipe", f"no recipe is called {stage!r}", hint="did you mean sft?")
        return Task(
            name="sft",
            recipe=stage,
            args=args,
            run="python -m suan.recipes.sft",
            envs={"A": "recipe", "B": "recipe"},
            inputs={"base": "model:poet@3", "corpus": "dataset:other"},
            outputs={"model": "model:sft", "report": "report:sft"},
            resources=(Resources(cpus=2),),
            priority=Priority.ONLINE,
        )

    monkeypatch.setattr("suan.recipes.recipe_task", recipe_task)
    return asked


def one(text: str, **more: Any) -> Task:
    tasks = read_tasks(text, **more).tasks
    assert len(tasks) == 1
    return tasks[0]


def test_an_input_of_the_recipe_can_be_left_out(recipes: list[tuple[str, Any]]) -> None:
    assert one("recipe: sft\ninputs: {base: null}").inputs == {"corpus": "dataset:other"}
    with pytest.raises(Refused, match=r"inputs\.bsae.*no input of the recipe"):
        one("recipe: sft\ninputs: {bsae: null}")
    with pytest.raises(Refused, match=r"inputs\.base.*must be text"):
        one("run: x\ninputs: {base: null}")


def test_every_key_of_ours(recipes: list[tuple[str, Any]]) -> None:
    task = one(OURS)
    assert recipes == [("sft", {"base": "model:poet@3", "lora_rank": 16, "rate": 1e-4, "on": "yes"})]
    assert task.inputs == {"base": "model:poet@3", "corpus": "dataset:tang"}
    assert task.outputs == {"model": "model:poet-sft", "report": "report:sft"}
    assert task.priority is Priority.VALLEY
    assert task.deadline_s == 12 * 3600
    assert task.max_cost_microyuan == 1_300_500_000
    assert task.checkpoint == Checkpoint(dir="$SUAN_CHECKPOINT", every_s=600)
    assert task.elastic == Elastic(min_nodes=1, max_nodes=8)
    assert task.place == Place(sites=("east", "west"), regions=("cn-north",), not_sites=("moon",))
    assert task.replicas == Replicas(min=0, max=8, target_ttft_ms=500)
    assert (task.duration_s, task.max_duration_s, task.max_restarts) == (5400, 172_800, 2)
    assert task.resources == (Resources(cpus=2),)
    assert task.run == "python -m suan.recipes.sft"


def test_the_file_wins_over_the_recipe(recipes: list[tuple[str, Any]]) -> None:
    task = one("recipe: sft\nname: mine\nenvs: {B: file, C: file}\nresources: {cpus: 4}\nsetup: echo")
    assert task.name == "mine"
    assert task.envs == {"A": "recipe", "B": "file", "C": "file"}
    assert task.resources == (Resources(cpus=4),)
    assert task.priority is Priority.ONLINE
    assert task.setup == "echo"


def test_a_recipe_that_is_not_there_keeps_its_code_and_gains_a_place(recipes: list[tuple[str, Any]]) -> None:
    error = refusal("name: a\nrecipe: stf")
    assert (error.code, error.fields["path"], error.fields["line"]) == ("unknown_recipe", "recipe", 2)
    assert "sft" in error.hint


def test_a_wrong_argument_names_its_path_and_line() -> None:
    error = refusal("recipe: tokenizer\nwith: {no_such_argument: 1}")
    assert (error.code, error.fields["path"]) == ("bad_recipe_args", "with.no_such_argument")
    assert str(error).startswith("with.no_such_argument (line 2, ")


def test_a_pipeline_of_ours_is_ordered_by_data_alone() -> None:
    text = "name: poet\n---\nrun: a\noutputs: {x: 'dataset:x'}\n---\nrun: b\ninputs: {x: 'dataset:x'}"
    text += "\n---\nrun: c"
    file = read_tasks(text, source="examples/poet/pipeline.yaml")
    assert file.name == "poet"
    assert [task.name for task in file.tasks] == ["pipeline-1", "pipeline-2", "pipeline-3"]
    assert file.tasks[2].inputs == {} and file.tasks[1].outputs == {}


def test_names_come_from_the_file() -> None:
    assert one("run: x", source="a b/My Task!.yaml").name == "My-Task"
    assert one("run: x").name == "task"


def test_env_values_as_skypilot_writes_them() -> None:
    task = one("envs: {A: true, B: 010, C: 1e-4, D: 1.10, E: '', F: yes, G: 2020-01-01}\nrun: x")
    values = {"A": "True", "B": "010", "C": "1e-4", "D": "1.10", "E": "", "F": "yes", "G": "2020-01-01"}
    assert task.envs == values


def test_envs_from_outside_reach_every_task_and_secrets_stay_secret() -> None:
    text = "run: a\nenvs: {M: x}\nsecrets: {K: null}\n---\nrun: b\nsecrets: [secrets:K]"
    file = read_tasks(text, envs={"M": "y", "K": "hidden"})
    assert [task.envs for task in file.tasks] == [{"M": "y"}, {"M": "y"}]
    assert [task.secrets for task in file.tasks] == [{"K": "hidden"}, {"K": "hidden"}]


def test_variables_in_paths() -> None:
    text = (
        "envs: {SIZE: 7, D: data}\nworkdir: ./$D\nfile_mounts: {'/m/${SIZE}b': '$D/${SIZE}/$OTHER'}\nrun: x"
    )
    local = read_tasks(text).local[0]
    assert local.workdir == "./data"
    assert local.mounts == {"/m/7b": "data/7/$OTHER"}


def test_an_artifact_can_be_mounted() -> None:
    file = read_tasks("file_mounts: {/data: 'dataset:tang@2', /code: ./code}\nrun: x")
    assert file.tasks[0].file_mounts == {"/data": "dataset:tang@2"}
    assert file.local[0].mounts == {"/code": "./code"}


def test_anchors_and_merges() -> None:
    file = read_tasks("run: a\nresources: &r {cpus: 4, memory: 8}\n---\nrun: b\nresources: {cpus: 1}")
    assert file.tasks[0].resources[0].memory_gib == 8
    merged = one("run: a\nresources:\n  any_of:\n  - &b {cpus: 4, memory: 8GB}\n  - {<<: *b, cpus: 2}")
    assert [(choice.cpus, choice.memory_gib) for choice in merged.resources] == [(4, 8), (2, 8)]


def test_fractions_of_a_device_and_port_ranges() -> None:
    task = one("resources: {accelerators: 'V100:0.5', ports: [8080, 9000-9002], cpus: 0.5+}\nrun: x")
    assert task.resources[0].accelerators == 1
    assert task.resources[0].ports == (8080, 9000, 9001, 9002)
    assert task.resources[0].devices == 1
    assert any("does not split" in note for note in task.notes)


NOW_S = 1_767_225_600  # 2026-01-01 00:00 UTC


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        ("90", 90),
        ("12h", 43_200),
        ("2026-01-02T00:00+00:00", 86_400),
        ("2026-01-01T09:00", 3600),  # Beijing
        ("2026-01-02", 40 * 3600),  # its end in Beijing
    ],
)
def test_deadlines(written: str, seconds: int) -> None:
    assert one(f"run: x\ndeadline: {written}", now_s=NOW_S).deadline_s == seconds


BAD = [
    # text, code, what is in the message or hint
    ("", "empty_task_file", "run:"),
    ("# nothing\n", "empty_task_file", "run:"),
    ("---\n---\n", "empty_task_file", "run:"),
    ("{}", "empty_task_file", "line 1"),
    ("run:\nsetup:", "empty_task_file", "no keys with a value"),
    ("just words", "bad_type", "keys and values"),
    ("- run: x", "bad_type", "not a list"),
    ("run: [", "bad_yaml", "brackets"),
    ("run: x\n\tsetup: y", "bad_yaml", "a tab"),
    ("a: &a [*a]", "bad_yaml", "complete before it"),
    ("run: *nobody", "bad_yaml", "&nobody"),
    ("run: !!python/object:os.system x", "bad_yaml", "without it"),
    ("run: x\x00", "bad_yaml", "not YAML"),
    ('run: "a\\0"', "bad_yaml", "NUL"),
    ('run: "\\ud800"', "bad_yaml", "half a character"),
    ("%YAML 9.9\n---\nrun: x", "bad_yaml", "not YAML"),
    ("run: x\nrun: y", "duplicate_key", "first in line 1"),
    ("resources: {cpus: 1, cpus: 2}", "duplicate_key", "twice"),
    ("? [a]\n: b", "bad_key", "must be text"),
    ("[" * 60, "too_big", "nested deeper"),
    ("a: " + "{a: " * 60, "too_big", "nested deeper"),
    ("run: " + "x" * (1 << 20), "too_big", "1 MiB"),
    ("with: [" + "1," * 10_001 + "]", "too_big", "10,000"),
    ("rum: x", "bad_key", "did you mean run?"),
    ("run: x\nresources:\n  acelerators: V100", "bad_key", "resources.acelerators (line 3, column 3)"),
    ("run: x\nresources:\n  acelerators: V100", "bad_key", "did you mean accelerators?"),
    ("7: x", "bad_key", "known here"),
    ("run: x\nenvs: {1A: x}", "bad_key", "beginning with no digit"),
    ("run: x\nresources: {any_of: [{any_of: []}]}", "bad_key", "any_of[0].any_of"),
    ("run: x\nresources: {any_of: [], ordered: []}", "conflicting_keys", "keep any_of or ordered"),
    ("run: x\nresources: {gpus: T4, accelerators: T4}", "conflicting_keys", "keep accelerators or gpus"),
    ("run: x\nresources: {any_of: 3}", "bad_type", "must be a list"),
    ("run: x\nresources: V100", "bad_type", "not text"),
    ("run: {a: b}", "bad_type", "must be text"),
    ("run: [a]", "bad_type", "not a list"),
    ("run: x\nenvs: [a]", "bad_type", "not a list"),
    ("run: x\nenvs: {A: {b: c}}", "bad_type", "envs.A"),
    ("run: x\nnum_nodes: 0", "bad_value", "from 1 up"),
    ("run: x\nnum_nodes: -2", "bad_value", "from 1 up"),
    ("run: x\nnum_nodes: .nan", "bad_type", "whole number"),
    ("run: x\nnum_nodes: 1.5", "bad_type", "whole number"),
    ("run: x\nnum_nodes: true", "bad_type", "whole number"),
    ("run: x\nnum_nodes: two", "bad_type", "whole number"),
    ("run: x\nnum_nodes: 99999999999999999999999", "bad_type", "whole number"),
    ("run: x\nnum_nodes: 900000", "bad_value", "more than any grid has"),
    ("run: x\nname: -a-", "bad_value", "cannot name a task"),
    ("run: x\nname: a/../b", "bad_value", "cannot name a task"),
    ("run: x\nresources: {cpus: -1}", "bad_value", "above 0"),
    ("run: x\nresources: {cpus: .inf}", "bad_value", "above 0"),
    ("run: x\nresources: {cpus: 0}", "bad_value", "above 0"),
    ("run: x\nresources: {memory: lots}", "bad_value", "64GB"),
    ("run: x\nresources: {memory: -4}", "bad_value", "64GB"),
    ("run: x\nresources: {disk_size: 0}", "bad_value", "64GB"),
    ("run: x\nresources: {use_spot: perhaps}", "bad_type", "true or false"),
    ("run: x\nresources: {ports: 70000}", "bad_value", "10000-10010"),
    ("run: x\nresources: {ports: 9-1}", "bad_value", "range"),
    ("run: x\nresources: {ports: 1-65535}", "bad_value", "write fewer"),
    ("run: x\nresources: {accelerators: H1000:8}", "unknown_accelerator", "H100"),
    ("run: x\nresources:\n  accelerators: [T4, NoSuch]", "unknown_accelerator", "line 3"),
    ("run: x\nresources: {accelerators: 'H100:0'}", "bad_value", "above 0"),
    ("run: x\nresources: {accelerators: 'H100:-8'}", "bad_value", "above 0"),
    ("run: x\nresources: {accelerators: 'H100:nan'}", "bad_value", "above 0"),
    ("run: x\nresources: {accelerators: {H100: many}}", "bad_value", "above 0"),
    ("run: x\nresources: {accelerators: []}", "bad_value", "write H100:8"),
    ("run: x\nresources: {accelerators: 900GB+}", "unknown_accelerator", "24GB+"),
    ("run: x\nresources: {accelerators: 'tpu-v99-8'}", "unknown_accelerator", "tpu"),
    ("run: x\nresources: {job_recovery: {max_restarts_on_errors: -1}}", "bad_value", "from 0 up"),
    ("run: x\nenvs: {TOKEN: }", "missing_env", "--env TOKEN passes yours on"),
    ("run: x\nsecrets: {TOKEN: null}", "missing_env", "--env TOKEN passes yours on"),
    ("run: x\nmanaged_secrets: [TOKEN]", "missing_env", "TOKEN has no value"),
    ("run: x\nrecipe: sft", "conflicting_keys", "cannot stand beside recipe:"),
    ("run: x\nwith: {a: 1}", "conflicting_keys", "recipe"),
    ("recipe: sft\nwith: 3", "bad_type", "keys and values"),
    ("run: x\ninputs: {a: tang}", "bad_artifact_name", "inputs.a (line 2, column 13)"),
    ("run: x\ninputs: {a: 'dataset:../etc'}", "bad_artifact_name", "letters"),
    ("run: x\noutputs: {'../a': 'model:x'}", "bad_key", "outputs"),
    ("run: x\ninputs: {a-b: 'model:x', a_b: 'model:y'}", "duplicate_key", "$SUAN_INPUT_A_B"),
    ("run: x\npriority: urgent", "bad_value", "valley"),
    ("run: x\npriority: 5", "bad_value", "valley"),
    ("run: x\ndeadline: soon", "bad_duration", "10m"),
    ("run: x\ndeadline: 0s", "bad_duration", "10 years"),
    ("run: x\ndeadline: -3h", "bad_duration", "not a length of time"),
    ("run: x\ndeadline: 2026-02-31", "bad_deadline", "not a date"),
    ("run: x\ndeadline: 2027-01-01", "bad_deadline", "write a length: 12h"),
    ("run: x\nduration: 9999999999999d", "bad_duration", "10 years"),
    ("run: x\nmax_cost: 300 USD", "bad_money", "300 CNY"),
    ("run: x\nmax_cost: -5", "bad_money", "300 CNY"),
    ("run: x\nmax_cost: 0", "bad_value", "above 0"),
    ("run: x\nmax_restarts: -1", "bad_value", "from 0 up"),
    ("run: x\ncheckpoint: {every: never}", "bad_duration", "checkpoint.every"),
    ("run: x\ncheckpoint: {evry: 1m}", "bad_key", "did you mean every?"),
    ("run: x\nelastic: {nodes: 8-1}", "bad_value", "1-8"),
    ("run: x\nelastic: {nodes: 1-4}\nnum_nodes: 8", "bad_value", "widen"),
    ("run: x\nplace: {site: east}", "bad_key", "did you mean sites?"),
    ("run: x\nreplicas: {min: 3, max: 1}", "bad_value", "at least 3"),
    ("run: x\nreplicas: -1", "bad_value", "from 0 up"),
    ("run: x\nreplicas: 1\nservice: {replicas: 1}", "conflicting_keys", "keep replicas or service"),
    ("run: x\nservice: {replica_policy: {min_replicas: 2, max_replicas: 1}}", "bad_value", "replica_policy"),
    ("run: x\nworkdir: ''", "bad_value", "not a path"),
    ("run: x\nworkdir: {ref: main}", "bad_value", "no url"),
    ("run: x\nfile_mounts: [a]", "bad_type", "file_mounts"),
    ("run: x\nfile_mounts: {/a: [b]}", "bad_type", "file_mounts./a"),
    ("run: x\nfile_mounts: {/a: {sauce: b}}", "bad_key", "did you mean source?"),
    ("name: p\nexecution: sideways\n---\nrun: x\n", "bad_value", "serial or parallel"),
    ("run: x\n---\n- y", "bad_type", "line 3"),
]


def refusal(text: str, **more: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        read_tasks(text, **more)
    return caught.value


def test_the_reference_page_runs() -> None:
    page = Path(__file__).parents[2] / "docs" / "reference" / "task.md"
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        notes = [note for task in read_tasks(block).tasks for note in task.notes]
        assert all(note.startswith(("elastic:", "replicas:")) for note in notes), notes


@pytest.mark.parametrize(("text", "code", "said"), BAD)
def test_bad_files(text: str, code: str, said: str) -> None:
    error = refusal(text)
    assert error.code == code, str(error)
    assert said in str(error)
    assert error.hint


def test_a_past_date_is_refused() -> None:
    assert refusal("run: x\ndeadline: 2025-01-01", now_s=NOW_S).code == "bad_deadline"


def test_secrets_are_not_repeated_in_errors() -> None:
    error = refusal("run: x\nsecrets: {K: [hunter2]}")
    assert "hunter2" not in str(error) + str(error.fields)


def lines_of(levels: int, width: int) -> str:
    rows = ["l0: &l0 [" + ",".join(["lol"] * width) + "]"]
    rows += [f"l{n}: &l{n} [" + ",".join([f"*l{n - 1}"] * width) + "]" for n in range(1, levels)]
    return "\n".join(rows)


def test_exploding_aliases_are_refused_quickly() -> None:
    started = time.process_time()
    assert refusal(lines_of(30, 10)).code == "too_big"
    long_text = "with:\n  a: &a '" + "x" * 100_000 + "'\n  b: [" + ",".join(["*a"] * 100) + "]"
    assert refusal(long_text).code == "too_big"
    variables = "envs: {A: " + "x" * 30_000 + "}\nrun: x\nworkdir: " + "$A" * 1000
    assert refusal(variables).code == "too_big"
    assert time.process_time() - started < 1


KNOWN = re.findall(
    r"\S+",
    """name run setup resources accelerators cpus memory any_of ordered ports envs secrets num_nodes workdir
    file_mounts service replicas recipe with inputs outputs deadline max_cost elastic nodes place checkpoint
    every pool volumes config priority job_recovery source mode <<""",
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(
        ["H100:8", "80GB+", "1-8", "2+", "tpu-v3-8", "s3://b/c", "$A", "dataset:x", "0x1f", ".nan"]
    ),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=12,
)
FUZZ = settings(max_examples=250, deadline=1000, suppress_health_check=list(HealthCheck))


def read_or_refuse(text: str) -> TaskFile | None:
    try:
        return read_tasks(text, envs={"A": "b"}, now_s=NOW_S)
    except Refused as error:
        assert error.code and error.what and error.hint
        return None


@FUZZ
@given(st.text(max_size=200))
@example("&a : *a")
@example("- !<")
@example("%TAG ! !\n---\n!x")
@example('"\\U99999999"')
def test_any_text_is_read_or_refused(text: str) -> None:
    read_or_refuse(text)


@FUZZ
@given(st.text(alphabet="runes:ouc[]{}&*!|>'\"%@`-? \n\t,#<a1.~", max_size=120))
def test_text_that_looks_like_yaml_is_read_or_refused(text: str) -> None:
    read_or_refuse(text)


@FUZZ
@given(st.dictionaries(st.sampled_from(KNOWN), VALUES, min_size=1, max_size=6))
def test_any_structure_is_read_or_refused(structure: dict[str, Any]) -> None:
    file = read_or_refuse(json.dumps(structure))
    if file is not None:
        assert all(choice.devices >= 1 for task in file.tasks for choice in task.resources)
        assert all(task.num_nodes >= 1 for task in file.tasks)
