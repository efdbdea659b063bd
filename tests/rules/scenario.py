"""A grid in a few lines, and its plan as text: what tests of rules are written with."""

from dataclasses import dataclass, field
from typing import Any

from suan.control.execute import facts_of
from suan.grid import fact as f
from suan.grid.action import EndJob, MoveArtifact, PlaceRun, Plan, StopRun
from suan.grid.artifact import Artifact
from suan.grid.job import EndCause, Resources, Task
from suan.grid.site import Bands, Link, Pool, Tariff
from suan.grid.state import State
from suan.rules.admit import admit
from suan.rules.audit import audit
from suan.rules.decide import decide
from suan.rules.evolve import evolve
from suan.rules.policy import Policy

NIGHT = 1_800_028_800 - 1_800_028_800 % 86_400 + 16 * 3600  # midnight in China (UTC+8)


@dataclass
class Scenario:
    """Facts are folded as they are told; `plan()` decides and carries out on paper."""

    policy: Policy = field(default_factory=Policy)
    now_s: int = NIGHT
    state: State = field(default_factory=State)
    facts: list[f.Fact] = field(default_factory=list)

    def tell(self, *facts: f.Fact) -> "Scenario":
        for fact in facts:
            self.facts.append(fact)
            evolve(self.state, fact)
        return self

    def tenant(self, name: str = "default", **about: Any) -> "Scenario":
        return self.tell(f.TenantSet(at_s=self.now_s, tenant=name, **about))

    def site(
        self, name: str, *pools: str, yuan_per_kwh: float = 0.6, valley: float = 1.0, pue: float = 1.2
    ) -> "Scenario":
        """Pools as `accelerator nodes x devices machine-yuan-per-device-hour`, e.g. `H100-SXM 2x8 10`."""
        self.tell(f.SiteJoined(at_s=self.now_s, site=name, region=f"r-{name}"))
        described = []
        for number, text in enumerate(pools):
            kind, shape, *price = text.split()
            nodes, devices = shape.split("x")
            described.append(
                Pool(
                    name=f"p{number}",
                    accelerator=kind,
                    nodes=int(nodes),
                    devices_per_node=int(devices),
                    cpus_per_node=64,
                    memory_gib_per_node=256,
                    device_w=500,
                    machine_microyuan_per_device_h=round(float(price[0]) * 1e6) if price else 1_000_000,
                )
            )
        self.tell(
            f.SiteDescribed(at_s=self.now_s, site=name, pools=tuple(described), data_url=f"http://{name}")
        )
        bands = Bands(
            flat_microyuan_per_kwh=round(yuan_per_kwh * 1e6),
            ratios={"day": 1.0, "night": valley},
            months=(("night",) * 8 + ("day",) * 16,),
            gco2_per_kwh=500,
        )
        return self.tell(f.TariffSet(at_s=self.now_s, tariff=Tariff(site=name, prices=bands, pue=pue)))

    def link(self, source: str, destination: str, mbit_per_s: float = 100, **about: Any) -> "Scenario":
        for a, b in ((source, destination), (destination, source)):
            self.tell(
                f.LinkSet(at_s=self.now_s, link=Link(source=a, destination=b, mbit_per_s=mbit_per_s, **about))
            )
        return self

    def artifact(self, name: str, site: str, bytes: int = 1_000_000, **about: Any) -> "Scenario":
        made = Artifact(
            id=name, digest=name.replace(":", "").replace("@", ""), bytes=bytes, files=1, tenant="default",
            created_at_s=self.now_s, **about,
        )  # fmt: skip
        return self.tell(
            f.ArtifactCommitted(at_s=self.now_s, artifact=made),
            f.ReplicaAdded(at_s=self.now_s, artifact=name, site=site),
        )

    def submit(self, *tasks: Task, tenant: str = "default") -> tuple[str, ...]:
        facts = admit(self.state, tenant, tasks, now_s=self.now_s)
        self.tell(*facts)
        return tuple(fact.job for fact in facts)

    def plan(self) -> Plan:
        """Decides, has the plan audited, and writes it down."""
        plan = decide(self.state, self.policy, self.now_s)
        objections = audit(self.state, plan)
        assert objections == (), objections
        self.tell(*facts_of(plan))
        return plan

    def started(self, run: str) -> "Scenario":
        return self.tell(f.RunStarted(at_s=self.now_s, run=run, started_at_s=self.now_s))

    def ended(
        self, run: str, exit_code: int = 0, cause: EndCause = EndCause.EXITED, **about: Any
    ) -> "Scenario":
        return self.tell(f.RunEnded(at_s=self.now_s, run=run, cause=cause, exit_code=exit_code, **about))


def task(
    name: str = "t", devices: int = 1, accelerator: str = "H100-SXM", nodes: int = 1, **about: Any
) -> Task:
    if "resources" not in about:
        about["resources"] = (Resources(accelerator=accelerator, accelerators=devices, cpus=1),)
    return Task(name=name, run="true", num_nodes=nodes, **about)


def text(plan: Plan) -> str:
    """The plan in lines, for golden comparisons."""
    lines = []
    for action in plan.actions:
        match action:
            case PlaceRun():
                bid = action.bid
                lines.append(f"place {action.job} at {bid.site}/{bid.pool} on {bid.devices}")
            case MoveArtifact():
                lines.append(
                    f"move {action.artifact} {action.source} -> {action.destination} for {action.job}"
                )
            case StopRun():
                lines.append(f"stop {action.run}: {action.why}")
            case EndJob():
                lines.append(f"end {action.job} {action.phase}: {action.outcome}")
    lines.extend(f"wait {job}: {reason.code}" for job, reason in plan.reasons.items())
    return "\n".join(lines)


def check(scenario: Scenario, expect: str) -> Plan:
    """The scenario's plan reads as expected."""
    plan = scenario.plan()
    assert text(plan) == "\n".join(line.strip() for line in expect.strip().splitlines())
    return plan
