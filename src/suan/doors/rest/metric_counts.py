"""The metrics of one process: what the state says, what facts have added up to, what loop and gateway took.

Knows when each number is taken: gauges when somebody asks, counters as facts come by, times where they pass.
Which metrics there are is `metric_table.py`. Nothing leaves this process unless it is asked for.
"""

import logging
import time
from collections.abc import Iterator
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from suan.control.loop import Grid
from suan.doors.rest.metric_readings import Names, readings
from suan.doors.rest.metric_table import COUNTED, READ, TIMED
from suan.grid import fact as f
from suan.grid.account import Usage
from suan.grid.artifact import Transfer
from suan.grid.fact import Fact
from suan.grid.job import TERMINAL_PHASES, Job, Run
from suan.grid.state import State
from suan.grid.units import HOUR_S

log = logging.getLogger("suan.doors")
_JOULES_PER_KWH = 1000 * HOUR_S
_GATEWAY = frozenset({"/v1/chat/completions", "/v1/completions"})
prometheus_client.disable_created_metrics()  # a second series for each, which says when this process started


class Metrics:
    """One process' metrics. Made before the grid starts: totals begin with what the journal has by then."""

    def __init__(self, grid: Grid) -> None:
        self.registry = CollectorRegistry()
        self.names = Names()
        self._grid = grid
        self._counters: dict[str, Counter] = {
            family.name: Counter(family.name, family.meaning, family.labels, registry=self.registry)
            for family in COUNTED
        }
        self._series: dict[tuple[str, tuple[str, ...]], Counter] = {}
        self._histograms: dict[str, Histogram] = {
            family.name: Histogram(
                family.name, family.meaning, family.labels, registry=self.registry, buckets=buckets
            )
            for family, buckets in TIMED
        }
        self.registry.register(_Readings(grid, self.names))
        prometheus_client.ProcessCollector(registry=self.registry)
        grid.read(self._begin)
        grid.timed = self._timed
        grid.listen(self._hear)

    def answered(self, service: str, code: int, seconds: float, first_byte_s: float | None) -> None:
        """One request to a service, answered or broken off."""
        labels = (self.names.service(service) if service else "", str(code))
        self._histograms["suan_gateway_request_duration_seconds"].labels(*labels).observe(seconds)
        if first_byte_s is not None:
            self._histograms["suan_gateway_time_to_first_byte_seconds"].labels(*labels).observe(first_byte_s)

    def _add(self, name: str, labels: tuple[str, ...], amount: float = 1) -> None:
        series = self._series.get((name, labels))
        if series is None:  # finding one costs more than adding to it
            series = self._series[name, labels] = self._counters[name].labels(*labels)
        series.inc(amount)

    def _timed(self, step: str, seconds: float) -> None:
        self._histograms[f"suan_{step}_seconds"].observe(seconds)

    # ------------------------------------------------------------ facts

    def _begin(self, state: State) -> None:
        """What happened before this process did."""
        for job in state.jobs.values():
            self._add("suan_jobs_submitted", (self.names.tenant(job.tenant),))
            if job.phase in TERMINAL_PHASES:
                self._job_ended(job)
        for run in state.runs.values():
            if run.cause is not None:
                self._run_ended(run, state.usage.get(run.id, Usage()))
        for transfer in state.transfers.values():
            self._moved(transfer)
        for run_id, (requests, tokens_in, tokens_out) in state.tokens.items():
            self._served(state, run_id, requests, (tokens_in, tokens_out))

    def _hear(self, news: list[tuple[int, Fact]]) -> None:
        """In the writing thread, after the facts are durable: a few microseconds each."""
        for _, fact in news:
            try:
                self._count(self._grid.state, fact)
            except Exception:  # what is counted wrong must not stop the grid
                log.exception("a fact could not be counted")

    def _count(self, state: State, fact: Fact) -> None:
        self._add("suan_facts", (type(fact).__name__,))
        match fact:
            case f.JobSubmitted():
                self._add("suan_jobs_submitted", (self.names.tenant(fact.tenant),))
            case f.JobEnded():
                self._job_ended(state.jobs[fact.job])
            case f.RunStarted():
                self._started(state.jobs[state.runs[fact.run].job], fact.run)
            case f.RunEnded():
                self._run_ended(state.runs[fact.run], fact.usage)
            case f.TransferEnded():
                self._moved(state.transfers[fact.transfer], fact.moved_bytes)
            case f.Metered():
                self._served(state, fact.run, fact.requests, (fact.tokens_in, fact.tokens_out))
            case _:
                pass

    def _job_ended(self, job: Job) -> None:
        self._add("suan_jobs_ended", (self.names.tenant(job.tenant), job.phase.value))

    def _started(self, job: Job, run: str) -> None:
        if job.runs[0] == run and job.started_at_s is not None:
            waited_s = job.started_at_s - job.submitted_at_s
            self._histograms["suan_job_wait_seconds"].labels(job.task.priority.value).observe(waited_s)

    def _run_ended(self, run: Run, usage: Usage) -> None:
        site = self.names.site(run.site)
        pool = self.names.pool(f"{run.site}/{run.pool}").rpartition("/")[2]
        self._add("suan_runs_ended", (site, run.cause.value if run.cause else "unknown"))
        self._add("suan_device_seconds", (site, pool), usage.device_s)
        self._add(
            "suan_energy_joules",
            (site, self.names.meter(usage.energy_meter or usage.energy_source)),
            usage.energy_kwh * _JOULES_PER_KWH,
        )

    def _moved(self, transfer: Transfer, moved_bytes: int | None = None) -> None:
        ends = (self.names.site(transfer.source), self.names.site(transfer.destination))
        self._add("suan_transfer_bytes", ends, transfer.moved_bytes if moved_bytes is None else moved_bytes)

    def _served(self, state: State, run_id: str, requests: int, tokens: tuple[int, int]) -> None:
        run = state.runs.get(run_id)
        service = self.names.service(state.jobs[run.job].task.name) if run else ""
        self._add("suan_gateway_requests", (service,), requests)
        for direction, count in zip(("in", "out"), tokens, strict=True):
            self._add("suan_gateway_tokens", (service, direction), count)


class _Readings(Collector):
    """Asks the state at each scrape."""

    def __init__(self, grid: Grid, names: Names) -> None:
        self._grid, self._names = grid, names

    def describe(self) -> Iterator[Metric]:  # so that to register is not to ask
        return iter(())

    def collect(self) -> Iterator[Metric]:
        found = readings(self._grid, self._names)
        for family in READ:
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(family.name, family.meaning, labels=family.labels)
            for labels, value in found[family.name].items():
                metric.add_metric(labels, value)
            yield metric


class GatewayTimes:
    """ASGI middleware: how long requests to services took. Endpoints say in `request.state.service` whose."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] not in _GATEWAY:
            return await self._app(scope, receive, send)
        began_s = time.perf_counter()
        told: dict[str, Any] = {"code": 499}  # the caller went away before there was an answer

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                told["code"] = message["status"]
            elif message.get("body"):
                told.setdefault("first_byte_s", time.perf_counter() - began_s)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            service = scope.get("state", {}).get("service", "")
            took_s = time.perf_counter() - began_s
            self._metrics.answered(service, told["code"], took_s, told.get("first_byte_s"))
