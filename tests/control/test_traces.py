"""Traces: one a job, the same from every plane and after a restart, with the run below its own span."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from suan.control.execute import orders_for
from suan.control.loop import Grid
from suan.control.spans import Beside, spans_of
from suan.control.trace_ids import span_id, trace_id, traceparent
from suan.control.traces import Traces, traces_to
from suan.grid import fact as f
from suan.grid.account import Quote, Usage
from suan.grid.error import Refused
from suan.grid.job import Bid, Considered, EndCause, JobPhase, Resources, Task
from suan.grid.site import Pool
from suan.journals.memory import MemoryJournal
from suan.rules.policy import Policy

NOW_S = 1_800_000_000


class Clock:
    def now_s(self) -> int:
        return NOW_S


@pytest.fixture
def collector() -> Iterator[tuple[str, list[Any]]]:
    """A collector's address and the spans that it was sent."""
    got: list[Any] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            got.extend(
                span for all_of in sent.resource_spans for scope in all_of.scope_spans for span in scope.spans
            )
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", got
    server.shutdown()
    server.server_close()
    thread.join()


def life(exit_code: int = 0) -> list[f.Fact]:
    """A job that was lost once and ran again: waits, data, two runs."""
    pool = Pool(name="cpu", accelerator="CPU-x86", devices_per_node=8, nodes=1)
    bid = Bid(site="east", pool="cpu", devices=1, nodes=1, start_s=0, finish_s=0, quote=Quote())
    task = Task(name="count", run="true", resources=(Resources(),))

    def placed(run: str, at_s: int) -> f.Fact:
        return f.RunPlaced(at_s=at_s, run=run, job="j1", bid=bid, considered=Considered())

    return [
        f.TenantSet(at_s=NOW_S, tenant="alice"),
        f.SiteJoined(at_s=NOW_S, site="east"),
        f.SiteDescribed(at_s=NOW_S, site="east", pools=(pool,)),
        f.JobSubmitted(at_s=NOW_S, job="j1", tenant="alice", task=task),
        placed("j1-r1", NOW_S + 10),
        f.RunStarted(at_s=NOW_S + 15, run="j1-r1", started_at_s=NOW_S + 14),
        f.RunEnded(at_s=NOW_S + 30, run="j1-r1", cause=EndCause.LOST, ended_at_s=NOW_S + 29),
        placed("j1-r2", NOW_S + 40),
        f.RunStarted(at_s=NOW_S + 42, run="j1-r2", started_at_s=NOW_S + 41),
        f.RunEnded(
            at_s=NOW_S + 60,
            run="j1-r2",
            cause=EndCause.EXITED,
            exit_code=exit_code,
            ended_at_s=NOW_S + 57,
            usage=Usage(device_s=16),
        ),
        f.JobEnded(
            at_s=NOW_S + 60,
            job="j1",
            phase=JobPhase.FAILED if exit_code else JobPhase.SUCCEEDED,
            outcome="so it is",
        ),
    ]


def write(grid: Grid, facts: list[f.Fact]) -> None:
    for fact in facts:
        grid.do(lambda state, now_s, fact=fact: ([fact], None))


def test_a_job_is_one_trace_from_submit_to_exit(collector: tuple[str, list[Any]]) -> None:
    url, got = collector
    grid = Grid(MemoryJournal(), Clock(), Policy())
    traces = traces_to(url, grid)
    write(grid, life())
    traces.close()
    job = grid.state.jobs["j1"]
    assert {span.trace_id.hex() for span in got} == {f"{trace_id(job):032x}"}
    root = got[0]
    assert (root.name, root.parent_span_id) == ("job", b"")
    assert {span.parent_span_id for span in got[1:]} == {root.span_id}
    assert len({span.span_id for span in got}) == len(got)
    times = [
        (span.name, span.start_time_unix_nano // 10**9 - NOW_S, span.end_time_unix_nano // 10**9 - NOW_S)
        for span in got
    ]
    assert times == [
        ("job", 0, 60),
        ("wait", 0, 10),
        ("place", 10, 10),
        ("stage data", 10, 14),
        ("run", 14, 29),
        ("commit output", 29, 30),
        ("wait", 30, 40),
        ("place", 40, 40),
        ("stage data", 40, 41),
        ("run", 41, 57),
        ("commit output", 57, 60),
    ]
    assert [span.status.code for span in got if span.name == "run"] == [2, 0]  # lost is an error, 0 is unset


def test_the_run_is_told_where_it_belongs() -> None:
    grid = Grid(MemoryJournal(), Clock(), Policy())
    write(grid, life()[:5])
    job = grid.state.jobs["j1"]
    (order,) = orders_for(grid.state, "east", grid.policy, NOW_S).launch
    version, trace, span, flags = order.env["TRACEPARENT"].split("-")
    assert (version, flags) == ("00", "01")
    write(grid, life()[5:])
    spans = spans_of(grid.state, grid.state.jobs["j1"], Beside())
    own = next(one for one in spans if one.name == "run")
    assert (int(trace, 16), int(span, 16)) == (trace_id(job), own.id)
    assert (len(trace), len(span)) == (32, 16)


def test_another_plane_and_a_restart_give_the_same_ids() -> None:
    told = []
    for _ in range(2):
        grid = Grid(MemoryJournal(), Clock(), Policy())
        write(grid, life(exit_code=3))
        told.append(spans_of(grid.state, grid.state.jobs["j1"], Beside()))
    assert told[0] == told[1]
    assert told[0][0].error == "so it is"
    other = f.JobSubmitted(at_s=NOW_S + 1, job="j2", tenant="alice", task=Task(name="x", run="true"))
    write(grid, [other])
    first, second = grid.state.jobs["j1"], grid.state.jobs["j2"]
    assert trace_id(first) != trace_id(second)
    assert span_id(first, "job") != span_id(second, "job")
    assert traceparent(first, "j1-r1") == traceparent(first, "j1-r1") != traceparent(first, "j1-r2")


def test_a_collector_that_is_away_delays_nobody() -> None:
    from time import monotonic

    grid = Grid(MemoryJournal(), Clock(), Policy())
    traces = traces_to("http://127.0.0.1:9", grid)
    began_s = monotonic()
    write(grid, life())
    assert monotonic() - began_s < 1.0
    traces.close()
    assert monotonic() - began_s < 6.0
    assert grid.state.jobs["j1"].phase is JobPhase.SUCCEEDED
    assert not grid.trouble


def test_who_follows_sends_nothing(collector: tuple[str, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
    url, got = collector
    grid = Grid(MemoryJournal(), Clock(), Policy())
    traces: Traces = traces_to(url, grid)
    monkeypatch.setattr(Grid, "leads", False)
    write(grid, life())
    traces.close()
    assert got == []


def test_without_the_sdk_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    grid = Grid(MemoryJournal(), Clock(), Policy())
    with pytest.raises(Refused, match="OpenTelemetry") as refused:
        traces_to("http://127.0.0.1:4318", grid)
    assert "suan[trace]" in refused.value.hint
    with pytest.raises(Refused, match="trace_url"):
        traces_to("collector:4318", grid)
