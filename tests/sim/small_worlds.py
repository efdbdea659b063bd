"""Small worlds and arrivals drawn from a seed, for safety under faults: pipelines with outputs, data,
deadlines."""

import random
from pathlib import Path
from typing import Any

from suan.grid.job import Checkpoint, Place, Priority, Resources, Task
from suan.sim.policies import named_policy
from suan.sim.run import Simulation
from suan.sim.site import CHECKPOINT_ENV, DURATION_ENV, OUTPUT_ENV
from suan.sim.trace import Arrival
from suan.sim.world import World, make_world

KIND = "H100-SXM"
FAULT_KINDS = (
    "partition",
    "agent_restart",
    "grid_restart",
    "engine_forgets",
    "node_loss",
    "run_crash",
    "failed_transfer",
    "lost_answers",
    "duplicated_reports",
    "delayed_reports",
)
FAULTS_END_S = 6 * 3600


def world_table(**changes: Any) -> dict[str, Any]:
    """Two sites with one pool each and a flat price, ready to be changed."""

    def site(name: str) -> dict[str, Any]:
        pool = {"accelerator": KIND, "devices_per_node": 4, "nodes": 1}
        return {
            "name": name,
            "pool": [pool | {"machine_microyuan_per_device_h": 1_000_000}],
            "tariff": {"flat_yuan_per_kwh": 0.5},
        }

    return {"site": [site("a"), site("b")], **changes}


def make(table: dict[str, Any]) -> World:
    return make_world(table, Path("."))


def small_world(seed: int) -> World:
    """Two to four sites, links between all of them, and every kind of fault several times in six hours."""
    chance = random.Random(f"world/{seed}")
    names = [f"s{number}" for number in range(chance.randint(2, 4))]
    sites = [
        {
            "name": name,
            "packing": chance.choice(["pool", "node"]),
            "pool": [
                {
                    "accelerator": KIND,
                    "devices_per_node": chance.choice([2, 4]),
                    "nodes": chance.randint(1, 3),
                    "machine_microyuan_per_device_h": chance.randint(1, 9) * 1_000_000,
                    "speed_ratio": chance.choice([1.0, 1.0, 1.5]),
                }
            ],
            "tariff": {"flat_yuan_per_kwh": chance.choice([0.3, 0.6]), "pue": 1.2, "gco2_per_kwh": 500},
        }
        for name in names
    ]
    links = [
        {"from": one, "to": other, "gbps": 0.2, "rtt_ms": 20, "microyuan_per_gb": 10_000}
        for one in names
        for other in names
        if one != other
    ]
    faults = [
        {
            "kind": kind,
            "per_day": chance.randint(8, 24),
            "for_s": chance.choice([8, 25, 40, 55, 120, 400]),
            "until_s": FAULTS_END_S,
        }
        for kind in FAULT_KINDS
    ]
    return make({"site": sites, "link": links, "fault": faults})


def small_arrivals(seed: int, count: int = 30) -> tuple[Arrival, ...]:
    """Jobs over five hours, a third of them pairs: the second reads what the first wrote, wherever that
    was."""
    chance = random.Random(f"arrivals/{seed}")
    arrivals = []
    for number in range(count):
        truth_s = chance.randint(20, 2400)
        env = {DURATION_ENV: str(truth_s), OUTPUT_ENV: str(chance.randint(1, 20) * 1_000_000_000)}
        checkpoint = None
        if chance.random() < 0.4:
            checkpoint, env[CHECKPOINT_ENV] = Checkpoint(every_s=120), "120"
        follows = number % 3 == 2
        arrivals.append(
            Arrival(
                at_s=chance.randint(0, 5 * 3600) if not follows else arrivals[-1].at_s,
                tenant=chance.choice("xy") if not follows else arrivals[-1].tenant,
                task=Task(
                    name=f"job-{number}",
                    run=f"sleep {truth_s}",
                    envs=env,
                    resources=(Resources(accelerator=KIND, accelerators=chance.randint(1, 2), cpus=0),),
                    inputs={"data": f"model:m{number - 1}"} if follows else {},
                    outputs={"out": f"model:m{number}"},
                    place=Place(sites=(chance.choice(["s0", "s1"]),)) if follows else Place(),
                    priority=chance.choice(list(Priority)),
                    deadline_s=chance.choice([None, 4 * truth_s]),
                    duration_s=chance.choice([None, truth_s]),
                    checkpoint=checkpoint,
                    max_restarts=50,
                ),
            )
        )
    return tuple(sorted(arrivals, key=lambda arrival: arrival.at_s))


def simulation(
    world: World, arrivals: tuple[Arrival, ...], policy: str = "greedy", seed: int = 0
) -> Simulation:
    return Simulation(world, arrivals, named_policy(policy, world.policies), seed=seed)
