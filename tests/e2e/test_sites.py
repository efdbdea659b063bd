"""Jobs through a whole grid: loop, agents, engines, stores and data doors are real, only HTTP to the grid is not."""

import time

from world import World, shell


def test_a_job_runs_and_its_output_becomes_one_version(world: World) -> None:
    world.start("east")
    began_s = time.monotonic()
    (job,) = world.submit(
        shell(
            "write",
            'echo hello; echo out > "$SUAN_OUTPUT_RESULT/file.txt"; echo \'{"loss": 1.5}\' > "$SUAN_METRICS"',
            outputs={"result": "dataset:words"},
        )
    )
    (ended,) = world.ended(job)
    took_s = time.monotonic() - began_s
    assert ended.phase == "succeeded", ended
    assert ended.outputs == {"result": "dataset:words@1"}
    assert ended.metrics == {"loss": 1.5}
    artifact = world.grid.state.artifacts["dataset:words@1"]
    assert (artifact.bytes, artifact.files, artifact.run) == (4, 1, ended.runs[0])
    assert len(world.grid.state.artifacts) == 1
    assert world.sites["east"].agent.store.has(artifact.digest)
    assert world.log(ended.runs[0]) == b"hello\n"
    assert took_s < 5
    print("took", took_s)
