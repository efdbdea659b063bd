"""Rules and dashboard in examples/observability: promtool takes them, and they ask for what there is."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from suan.doors.rest.metric_table import FAMILIES

FOLDER = Path(__file__).parents[2] / "examples" / "observability"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="NOT CHECKED: there is no promtool here; apt-get install prometheus"
)
_OWN = re.compile(r"\bsuan[_:][a-z0-9_:]+")
_SAMPLES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}


def promtool(*arguments: str, cwd: Path = FOLDER) -> str:
    done = subprocess.run(
        [str(PROMTOOL), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, str]]:
    return [
        rule for group in YAML(typ="safe").load(FOLDER / "rules.yaml")["groups"] for rule in group["rules"]
    ]


def panels() -> Iterator[tuple[str, str]]:
    """(title, expression) of every query on the dashboard."""
    for panel in json.loads((FOLDER / "dashboard.json").read_text("utf-8"))["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]


@needs_promtool
def test_the_rules_are_sound_and_fire_when_they_should() -> None:
    assert "SUCCESS" in promtool("check", "rules", "rules.yaml")
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml")
    promtool("check", "config", "--syntax-only", "prometheus.yaml")


@needs_promtool
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    asked = [{"record": f"panel:{number}", "expr": expr} for number, (_, expr) in enumerate(panels())]
    assert len(asked) > 20
    (tmp_path / "panels.yaml").write_text(json.dumps({"groups": [{"name": "panels", "rules": asked}]}))
    promtool("check", "rules", "panels.yaml", cwd=tmp_path)


def test_rules_and_dashboard_ask_for_what_there_is() -> None:
    there = {family.name + suffix for family in FAMILIES for suffix in _SAMPLES[family.kind]}
    there |= {rule["record"] for rule in rules() if "record" in rule}
    asked = [(rule.get("record") or rule["alert"], rule["expr"]) for rule in rules()]
    unknown = {(where, name) for where, expr in (*asked, *panels()) for name in _OWN.findall(expr)} - {
        (where, name) for where, _ in (*asked, *panels()) for name in there
    }
    assert not unknown


def test_every_alert_says_what_to_do() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert alerts
    for alert in alerts:
        assert {"summary", "what_to_do"} <= set(alert["annotations"]), alert["alert"]  # type: ignore[call-overload]
