"""Prints cli.md from the commands themselves:

python docs/reference/make_cli.py > docs/reference/cli.md
"""

import inspect

import click

from suan.doors.cli.verbs import VERBS, suan

HEAD = """# The command line

This page is made from the commands by `docs/reference/make_cli.py`; every verb says the same with `--help`.

- **Which grid:** `--url` and `--key`, else `SUAN_URL` and `SUAN_KEY`, else the file that `suan up` writes:
  `$SUAN_CONFIG`, or `~/.config/suan/client.json`.
- **`--json`:** exactly one JSON document on standard output, nothing else (`logs -f --json`: one object a
  line). Errors are then problem+json on standard error.
- **Exit codes:** 0 done; 1 the work itself failed (a job, a check); 2 refused, you can fix it and nothing was
  stored; 75 not now, the same command may succeed later; 130 interrupted.
- **Errors** are one line that says what, and one that says what to type next.

## site.toml

`suan join --config site.toml` describes a site; options win over the file.

```toml
site = "east"
url = "http://grid.example:8700"
state = "/var/lib/suan/east"   # its key, runs, and its store unless `store` says otherwise
region = "cn-east"
store = ""                     # or s3://BUCKET/PREFIX
data_host = "0.0.0.0"          # where other sites fetch artifacts
data_port = 8701
data_url = ""                  # what others call that address by, when they see another
data_relay = false             # give data through the grid: others cannot dial this site
redfish = ""                   # this machine's management controller, https://USER@HOST, for its energy
redfish_password_file = "bmc.password"   # with redfish only
redfish_certificate = "bmc.pem"          # the controller's own; left out: one that is trusted already
emulate_links = false          # wait out declared round trips: several sites on one machine
labels = {}
engine = "local"               # or slurm, ray, kubernetes: `[engine_options]` as their how-to pages say

[[pool]]
name = "gpu"
accelerator = "H100"           # as `suan sites --accelerators` lists them; CPU is this machine's kind
nodes = 1
devices_per_node = 8           # in a CPU pool, cores
cpus_per_node = 96             # left out: this machine's
memory_gib_per_node = 1024     # left out: this machine's
machine_yuan_per_device_h = 20.0   # price or depreciation of a device-hour, electricity apart
device_w = 700                 # left out: the accelerator's TDP
host_w_per_node = 800          # what a node draws besides its devices
preemption_per_h = 0.0         # how often a node is lost
speed_ratio = 1.0              # how fast jobs run here, against what their duration was given for
```
"""


def verb(name: str, command: click.Command, path: str) -> list[str]:
    """The section of one verb, and of what is below it."""
    context = click.Context(command, info_name=path, max_content_width=100, terminal_width=100)
    usage = " ".join(command.collect_usage_pieces(context))
    lines = [f"## {path}" if path.count(" ") == 1 else f"### {path}", "", f"`{path} {usage}`", ""]
    lines += [inspect.cleandoc(command.help or "").replace("\b\n", ""), ""]
    rows = [
        record
        for parameter in command.get_params(context)
        if (record := parameter.get_help_record(context)) and record[0] not in ("-h, --help", "--help")
    ]
    if rows:
        lines += ["| option | |", "| --- | --- |"]
        lines += [
            f"| `{option}` | {' '.join(text.split())} |".replace("|  |", "| |") for option, text in rows
        ]
        lines.append("")
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            inner = command.get_command(context, below)
            assert inner is not None
            lines += verb(below, inner, f"{path} {below}")
    return lines


def page() -> str:
    """The whole page."""
    context = click.Context(suan)
    lines = [HEAD]
    for name in VERBS:
        command = suan.get_command(context, name)
        assert command is not None
        lines += verb(name, command, f"suan {name}")
    return "\n".join(lines).replace("…|", "…").rstrip() + "\n"


if __name__ == "__main__":
    print(page(), end="")
