"""The ids of a job's trace, made from the job itself: every plane, and a grid started anew, gives the same.

Knows W3C Trace Context. Source: w3.org/TR/trace-context, sections 2 and 3: an id of all zeros is invalid,
which a hash of this length is once in 2**64 names.
"""

import hashlib

from suan.grid.job import Job


def trace_id(job: Job) -> int:
    """128 bits: of the job's id and of when it came, for ids of jobs begin at j1 in every grid."""
    return _number(f"{job.id}/{job.submitted_at_s}/{job.tenant}", 16)


def span_id(job: Job, span: str) -> int:
    """64 bits for the span of this name in the job's trace."""
    return _number(f"{trace_id(job):032x}/{span}", 8)


def traceparent(job: Job, run: str) -> str:
    """What the run is given as TRACEPARENT: what it traces itself lies below its own span."""
    return f"00-{trace_id(job):032x}-{span_id(job, run):016x}-01"


def _number(text: str, size_bytes: int) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size_bytes).digest(), "big")
