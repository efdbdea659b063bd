"""What doors may ask of a grid: each command is `(state, now_s) -> (facts, result)` for `Grid.do`.

Knows who may own what, and makes ids and secrets. Decides nothing about placement. Whether a command may be
given twice is in its docstring: doors send again when an answer is lost.
"""

from suan.control.commands.artifacts import Content, Fetch, fetch_artifact, put_artifact
from suan.control.commands.command import Command, check_name, key_hash, key_of, new_secret, unknown
from suan.control.commands.jobs import Metering, meter, stop_jobs, submit
from suan.control.commands.keys import Issued, first_start, issue_key, revoke_key, set_tenant
from suan.control.commands.sites import Joined, drain_site, issue_join_token, join_site, set_link, set_tariff

__all__ = [
    "Command", "Content", "Fetch", "Issued", "Joined", "Metering", "check_name", "drain_site",
    "fetch_artifact", "first_start", "issue_join_token", "issue_key", "join_site", "key_hash", "key_of",
    "meter", "new_secret", "put_artifact", "revoke_key", "set_link", "set_tariff", "set_tenant", "stop_jobs",
    "submit", "unknown",
]  # fmt: skip
