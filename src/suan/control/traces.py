"""Traces of jobs to an OpenTelemetry collector, over OTLP and HTTP, each at its job's end.

Knows the SDK and when to send, which the plane that leads does; what a trace is made of is `spans.py`. The
extra `trace` brings the SDK. A collector that is away costs the grid nothing: spans wait in a bounded queue,
and what does not fit is dropped.
"""

import contextlib
import logging
import queue
import threading
from typing import TYPE_CHECKING, Any

from suan import __version__
from suan.control.loop import Grid
from suan.control.spans import Beside, JobSpan, spans_of
from suan.control.trace_ids import trace_id
from suan.grid import fact as f
from suan.grid.error import Refused
from suan.grid.fact import Fact
from suan.grid.job import TERMINAL_PHASES, Job
from suan.grid.state import State

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger("suan.control")
_SEND_TIMEOUT_S = 5.0
_CLOSING_S = 3.0
_NS_PER_S = 1_000_000_000
_MOST_WAITING = 20_000  # jobs that have ended and are not traced yet; more are dropped
_PATH = "/v1/traces"


class Traces:
    """Listens to a grid and sends what has ended. Made before the grid starts."""

    def __init__(self, grid: Grid, exporter: "SpanExporter") -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._grid = grid
        self._ids = _GivenIds()
        resource = Resource.create({"service.name": "suan", "service.version": __version__})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("suan", __version__)
        self._beside: dict[str, Beside] = {}
        self._ended: queue.Queue[tuple[Job, Beside] | None] = queue.Queue(_MOST_WAITING)
        self._sender = threading.Thread(target=self._send_ended, name="traces", daemon=True)
        self._sender.start()
        grid.read(self._begin)
        self._unlisten = grid.listen(self._hear)

    def close(self) -> None:
        """Sends what waits, for a few seconds at most."""
        self._unlisten()
        with contextlib.suppress(queue.Full):
            self._ended.put_nowait(None)
        self._sender.join(_CLOSING_S)

    def _begin(self, state: State) -> None:
        for transfer in state.transfers.values():
            job = state.jobs.get(transfer.job)
            if job is not None and job.phase not in TERMINAL_PHASES:
                self._of(job.id).transfers.append(transfer.id)

    def _of(self, job: str) -> Beside:
        return self._beside.setdefault(job, Beside())

    def _hear(self, news: list[tuple[int, Fact]]) -> None:
        """In the writing thread. A job's last facts come in one go, and it is sent after all of them."""
        try:
            state = self._grid.state
            ended = [state.jobs[job] for _, fact in news if (job := self._note(state, fact))]
            for job in ended:
                beside = self._beside.pop(job.id, None) or Beside()
                if self._grid.leads:
                    with contextlib.suppress(queue.Full):
                        self._ended.put_nowait((job, beside))
        except Exception:  # what is traced wrong must not stop the grid
            log.exception("a job could not be traced")

    def _note(self, state: State, fact: Fact) -> str:
        """Keeps what the state does not; the job, when it has ended."""
        match fact:
            case f.TransferOrdered() if fact.job and fact.transfer not in self._of(fact.job).transfers:
                self._of(fact.job).transfers.append(fact.transfer)
            case f.RunEnded():
                self._of(state.runs[fact.run].job).ended_at_s[fact.run] = fact.at_s
            case f.Settled():
                for entry in fact.entries:
                    if entry.job in self._beside:
                        self._beside[entry.job].entries.append(entry)
            case f.JobEnded():
                return fact.job
            case _:
                pass
        return ""

    def _send_ended(self) -> None:
        """In a thread of its own: a trace costs more than the writing thread has to spare."""
        while (item := self._ended.get()) is not None:
            job, beside = item
            try:  # what is read of the state about a job that has ended changes no more
                self._send(job, spans_of(self._grid.state, job, beside))
            except Exception:
                log.exception("a job could not be traced", extra={"job": job.id})
        self._provider.shutdown()

    def _send(self, job: Job, spans: list[JobSpan]) -> None:
        from opentelemetry.trace import (
            NonRecordingSpan,
            SpanContext,
            Status,
            StatusCode,
            TraceFlags,
            set_span_in_context,
        )

        for one in spans:
            self._ids.trace, self._ids.span = trace_id(job), one.id
            above: Any = None
            if one.parent:
                sampled = TraceFlags(TraceFlags.SAMPLED)
                parent = SpanContext(trace_id(job), one.parent, is_remote=True, trace_flags=sampled)
                above = set_span_in_context(NonRecordingSpan(parent))
            span = self._tracer.start_span(
                one.name, above, attributes=one.attributes, start_time=one.began_s * _NS_PER_S
            )
            if one.error:
                span.set_status(Status(StatusCode.ERROR, one.error))
            span.end(one.ended_s * _NS_PER_S)


class _GivenIds:
    """The SDK's IdGenerator, giving what it was given. Used by one thread."""

    trace = span = 1

    def generate_trace_id(self) -> int:
        return self.trace

    def generate_span_id(self) -> int:
        return self.span

    def is_trace_id_random(self) -> bool:
        return False


def traces_to(url: str, grid: Grid) -> Traces:
    """Sends the grid's traces to the collector at `url`, its /v1/traces unless a path is named.

    Raises: Refused `no_trace` without the extra, `bad_config` for a URL that is none.
    """
    if not url.startswith(("http://", "https://")):
        raise Refused("bad_config", f"trace_url: {url[:80]!r} is none", hint="write http://COLLECTOR:4318")
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        hint = "pip install 'suan[trace]'"
        raise Refused("no_trace", f"traces need OpenTelemetry's SDK: {error}", hint=hint) from error
    path = "" if "/" in url.partition("://")[2].rstrip("/") else _PATH
    return Traces(grid, OTLPSpanExporter(endpoint=url.rstrip("/") + path, timeout=_SEND_TIMEOUT_S))
