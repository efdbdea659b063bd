"""/v1/estimates: the command line's answers, for a key, and problems for what cannot be estimated."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rest_world import World
from starlette.testclient import TestClient

CONFIG = {
    "model_type": "llama",
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}
ASKED = {"model": CONFIG, "name": "llama-8b", "accelerator": "H100", "devices": 64, "seq_len": 8192}
ROW = {
    "row_id": "a",
    "accel": "A100-SXM-80",
    "n_accel": 64,
    "layers": 32,
    "hidden": 4096,
    "heads": 32,
    "ffn": 11008,
}


class Asker:
    def __init__(self, client: TestClient, key: str) -> None:
        self.client, self.key = client, key

    def __call__(self, what: str, body: Any, status: int = 200) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        answer = self.client.post(f"/v1/estimates/{what}", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(Path(tmp_path_factory.mktemp("world")))


@pytest.fixture
def ask(world: World) -> Iterator[Asker]:
    with TestClient(world.app) as client:
        yield Asker(client, world.keys["viewer"])


def test_plans(ask: Asker) -> None:
    found = ask("plan", {**ASKED, "global_batch": 512, "count": 3, "plan": {"tp": 4, "recompute": "none"}})
    assert found["model"] == "llama-8b" and 7.9 < found["params_b"] < 8.1
    assert len(found["plans"]) <= 3
    assert all(plan["tp"] == 4 and plan["recompute"] == "none" for plan in found["plans"])
    assert found["plans"][0]["reason"]


def test_a_training_run(ask: Asker) -> None:
    found = ask("train", {**ASKED, "tokens": 1e12, "yuan_per_kwh": 0.5})
    assert found["hours_low"] < found["hours"] < found["hours_high"]
    assert found["cny"] == pytest.approx(found["kwh"] * 0.5)


def test_serving(ask: Asker) -> None:
    asked = {"model": CONFIG, "accelerator": "H100", "devices": 8, "requests_per_s": 5.0, "itl_slo_ms": 100.0}
    found = ask("serve", asked)
    assert found["fits"] and found["output_tokens_per_s"] > 0 and found["devices_needed"]


def test_rows(ask: Asker) -> None:
    found = ask("rows", {"what": "train", "rows": [ROW, {**ROW, "row_id": "b", "tp": 4}], "residual": False})
    assert [row["row_id"] for row in found["rows"]] == ["a", "b"]
    assert all(row["step_time_s"] > 0 and row["fits"] in (0, 1) for row in found["rows"])
    found = ask("rows", {"what": "serve", "rows": [{**ROW, "n_accel": 1, "scenario": "offline"}]})
    assert found["rows"][0]["throughput"] > 0 and found["rows"][0]["ttft_ms"] is None


@pytest.mark.parametrize(
    ("what", "body", "code"),
    [
        ("plan", {**ASKED, "accelerator": "H1OO"}, "unknown_accelerator"),
        ("plan", {**ASKED, "devices": 0}, "bad_value"),
        ("plan", {**ASKED, "model": {"model_type": "llama", "num_hidden_layers": 10**9}}, "bad_config"),
        ("plan", {**ASKED, "model": {**CONFIG, "num_hidden_layers": 10**9}}, "bad_model"),
        ("plan", {**ASKED, "plan": {"tq": 4}}, "bad_value"),
        ("plan", {**ASKED, "plan": {"recompute": "some"}}, "bad_value"),
        ("plan", {**ASKED, "count": 1000}, "bad_value"),
        ("plan", {**ASKED, "surprise": 1}, "bad_value"),
        ("plan", {**ASKED, "plan": {"tp": 5}}, "no_plan"),
        ("train", {**ASKED, "tokens": -1}, "bad_value"),
        ("rows", {"what": "train", "rows": [{**ROW, "hidden": "wide"}]}, "bad_number"),
        ("rows", {"what": "train", "rows": [{"layers": 3}]}, "missing_column"),
        ("rows", {"what": "train", "rows": []}, "missing_column"),
    ],
)
def test_what_cannot_be_estimated_is_a_problem(ask: Asker, what: str, body: Any, code: str) -> None:
    headers = {"authorization": f"Bearer {ask.key}"}
    answer = ask.client.post(f"/v1/estimates/{what}", json=body, headers=headers)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["code"] == code


def test_an_estimate_needs_a_key(world: World) -> None:
    with TestClient(world.app) as client:
        Asker(client, "")("plan", ASKED, status=401)


def test_the_schema_names_the_answers(world: World) -> None:
    schemas = world.app.openapi()["components"]["schemas"]
    assert {"PlansAnswer", "TrainingAnswer", "ServingAnswer", "RowsAnswer", "PlanBody"} <= schemas.keys()


def test_pools_take_a_step_together(ask: Asker) -> None:
    pools = [["H100", 64], ["910B", 64]]
    near = {"model": CONFIG, "pools": pools, "global_batch": 1024, "gbps_between": 10_000}
    found = ask("together", near)
    assert [share["accelerator"] for share in found["shares"]] == ["H100-SXM", "Ascend910B2"]
    assert found["step_time_s"] < min(found["alone_s"].values())
    far = ask("together", {**near, "gbps_between": 10, "rtt_ms": 40})
    assert len(far["shares"]) == 1 and far["meet_every_steps"] > 1
    assert "2 to 16" in ask("together", {**near, "pools": pools[:1]}, 422)["detail"]
