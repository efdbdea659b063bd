"""One plan of a baseline in the making: what is free, where a job fits, and what placing it takes.

Knows pools, partitions and data. In which order jobs come and which pool they prefer is decided elsewhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from suan.grid.action import Action, EndJob, MoveArtifact, PlaceRun, Plan
from suan.grid.artifact import Artifact
from suan.grid.job import Bid, Considered, Job, JobPhase, Reason
from suan.grid.site import Pool, Site, SitePhase, hour_rate
from suan.grid.state import State
from suan.grid.units import HOUR_S
from suan.rules.endings import hopeless, requested_stops
from suan.rules.fit import fit
from suan.rules.move import Move, again_at_s, bound_artifacts, moves_to, transfer_id
from suan.rules.policy import Policy
from suan.rules.quote import Setting, power_w, quote

FitMemo = dict[tuple[object, str, str], tuple[Site, Pool, int | Reason]]


@dataclass(slots=True)
class Room:
    """One pool that takes runs, and what is free in it while a plan is made."""

    site: Site
    pool: Pool
    free: int

    @property
    def name(self) -> str:
        return f"{self.site.name}/{self.pool.name}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A pool that a job fits into, and on how many devices."""

    room: Room
    resources_index: int
    devices: int


@dataclass(slots=True)
class Moment:
    """One plan in the making."""

    state: State
    policy: Policy
    now_s: int
    fits: FitMemo  # kept by the caller from plan to plan; an entry counts while site and pool are the same
    rooms: list[Room] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    reasons: dict[str, Reason] = field(default_factory=dict)
    wake_at_s: int | None = None
    _taken: dict[tuple[str, str], int] = field(default_factory=dict)  # (tenant, kind) -> devices of this plan
    _rates: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        used = self.state.used_devices
        self.rooms = [
            Room(site, pool, pool.devices - used.get((site.name, pool.name), 0))
            for _, site in sorted(self.state.sites.items())
            if site.phase == SitePhase.READY
            for _, pool in sorted(site.pools.items())
        ]

    def plan(self) -> Plan:
        return Plan(
            at_s=self.now_s,
            actions=tuple(self.actions),
            reasons=self.reasons,
            wake_at_s=self.wake_at_s,
        )

    def wake(self, at_s: int | None) -> None:
        """Another plan is wanted then."""
        if at_s is not None and at_s > self.now_s:
            self.wake_at_s = at_s if self.wake_at_s is None else min(self.wake_at_s, at_s)

    # ---------------------------------------------------------------- pools

    def candidates(self, job: Job) -> list[Candidate]:
        """The pools that the job fits into, free or not, by name."""
        task = job.task
        shape = (task.resources, task.num_nodes, task.place)
        found = []
        for room in self.rooms:
            known = self.fits.get((shape, room.site.name, room.pool.name))
            if known is None or known[0] is not room.site or known[1] is not room.pool:
                known = (room.site, room.pool, fit(task, room.site, room.pool))
                self.fits[shape, room.site.name, room.pool.name] = known
            index = known[2]
            if isinstance(index, int):
                devices = task.resources[index].devices * task.num_nodes
                found.append(Candidate(room, index, devices))
        return found

    def hourly(self, room: Room) -> tuple[float, float]:
        """(micro-yuan all in, gCO2) of a device-hour in this pool at this moment's prices."""
        rate = self._rates.get(room.name)
        if rate is None:
            tariff = self.state.tariff(room.site.name, self.now_s)
            money, gco2 = hour_rate(tariff, self.now_s // HOUR_S) if tariff else (0, 0.0)
            socket_kw = power_w(room.pool, 1) / 1000 * (tariff.pue if tariff else 1.0)
            carbon_g = socket_kw * gco2
            carbon_microyuan = carbon_g / 1000 * self.policy.carbon_microyuan_per_kg
            machine = room.pool.machine_microyuan_per_device_h
            rate = (machine + socket_kw * money + carbon_microyuan, carbon_g)
            self._rates[room.name] = rate
        return rate

    # ---------------------------------------------------------------- partitions

    def in_partition(self, job: Job, candidate: Candidate) -> bool:
        """Whether the tenant's nominal quota of this kind has room for the job; without one it has."""
        limit = self.partition(job.tenant, candidate.room.pool)
        if limit is None:
            return True
        share = (job.tenant, candidate.room.pool.accelerator)
        used = self.state.tenant_devices.get(share, 0) + self._taken.get(share, 0)
        return used + candidate.devices <= limit

    def partition(self, tenant: str, pool: Pool) -> int | None:
        """Devices of the pool's kind in the tenant's nominal quota; None: it has none."""
        known = self.state.tenants.get(tenant)
        nominal = known.quota.nominal_devices if known else {}
        return nominal.get(pool.accelerator, nominal.get("*"))

    # ---------------------------------------------------------------- placing

    def inputs(self, job: Job) -> dict[str, Artifact] | Reason:
        """The versions that the job reads, or why they are not there yet."""
        if not job.inputs:
            return {}
        return bound_artifacts(self.state, job)

    def moves(self, artifacts: dict[str, Artifact], room: Room) -> tuple[Move, ...] | Reason:
        """What must be moved there first."""
        if not artifacts:
            return ()
        return moves_to(self.state, artifacts, room.site.name, self.now_s)

    def place(
        self, job: Job, candidate: Candidate, artifacts: dict[str, Artifact], why: str
    ) -> Reason | None:
        """Starts the job there now; else why it may not."""
        room = candidate.room
        tenant = self.state.tenants.get(job.tenant)
        setting = Setting(
            pool=room.pool,
            tariff=self.state.tariff(room.site.name, self.now_s),
            waiting_microyuan_per_h=tenant.waiting_microyuan_per_h if tenant else 0,
        )
        price = quote(job, setting, candidate.devices, self.now_s, self.policy)
        limit = job.task.max_cost_microyuan
        if limit is not None and price.billed_microyuan > limit:
            return Reason(code="max_cost", text="it would cost more than its max_cost")
        bid = Bid(
            site=room.site.name,
            pool=room.pool.name,
            devices=candidate.devices,
            nodes=job.task.num_nodes,
            start_s=self.now_s,
            finish_s=self.now_s + price.run_s,
            quote=price,
            resources_index=candidate.resources_index,
        )
        self.actions.append(
            PlaceRun(
                job=job.id,
                run=f"{job.id}-r{len(job.runs) + 1}",
                bid=bid,
                considered=Considered(bids=(bid,), why=why),
                inputs={name: artifact.id for name, artifact in artifacts.items()},
            )
        )
        room.free -= candidate.devices
        share = (job.tenant, room.pool.accelerator)
        self._taken[share] = self._taken.get(share, 0) + candidate.devices
        return None

    def move(self, job: Job, moves: Sequence[Move]) -> Reason:
        """Orders the moves that are not under way, and the failed ones again after their pause."""
        for move in moves:
            transfer = transfer_id(self.state.artifacts[move.artifact], move.destination)
            before = self.state.transfers.get(transfer)
            if before is not None and again_at_s(before) > self.now_s:
                self.wake(again_at_s(before))
            elif not self.is_moving(move.artifact):
                self.actions.append(
                    MoveArtifact(
                        transfer=transfer,
                        artifact=move.artifact,
                        source=move.source,
                        destination=move.destination,
                        job=job.id,
                    )
                )
        return Reason(code="moving", text=f"its data are on their way to {moves[0].destination}")

    def is_moving(self, artifact: str) -> bool:
        """Whether a copy of it is under way, to wherever."""
        ordered = (action for action in self.actions if isinstance(action, MoveArtifact))
        return any(action.artifact == artifact for action in ordered) or any(
            self.state.transfers[transfer].artifact == artifact for transfer in self.state.open_transfers
        )

    # ---------------------------------------------------------------- endings

    def stop_requested(self) -> None:
        """What somebody stopped, stops."""
        self.actions.extend(requested_stops(self.state))

    def ends(self, job: Job) -> bool:
        """Ends the job if it can never run any more."""
        outcome = hopeless(self.state, self.policy, job)
        if outcome:
            self.actions.append(EndJob(job=job.id, phase=JobPhase.FAILED, outcome=outcome))
        return bool(outcome)
