"""Prints metrics.md from the table of metrics:

python docs/reference/make_metrics.py > docs/reference/metrics.md
"""

from suan.doors.rest.metric_table import COUNTED, READ, TIMED, Family

HEAD = """# Metrics

`GET /metrics` on the grid, for Prometheus; it needs an operator's key: it tells of every tenant. How to set
it up is in [Watch a grid](../how-to/observe.md). This page is made from `src/suan/doors/rest/metric_table.py`
by `docs/reference/make_metrics.py`.

- Units are Prometheus': seconds, bytes, joules, ratios. Money is in yuan.
- Labels name sites, pools, tenants, services and the like, never jobs or runs. The first 1,000 sites, 2,000
  pools, 200 tenants and 200 services have names; all others share `other`.
- Counters end in `_total`, as they are shown here. Those of what the journal knows begin with the journal, so
  that a restart loses nothing; `suan_facts` and the histograms begin with the process.
- Each control plane answers for itself. What several of them know is the same in all: take the one with
  `suan_leader == 1`.
- Sites have no `/metrics`: they dial out, and what they report is here. Beside these come the process' own
  `process_*` metrics.
"""


def name(family: Family) -> str:
    return family.name + ("_total" if family.kind == "counter" else "")


def rows(families: tuple[Family, ...]) -> list[str]:
    head = ["| metric | kind | labels | what |", "| --- | --- | --- | --- |"]
    return head + [
        f"| `{name(family)}` | {family.kind} | {', '.join(family.labels) or '–'} | {family.meaning} |"
        for family in families
    ]


def main() -> None:
    print(HEAD)
    print("## As it is now\n\nRead off the state when it is asked for.\n")
    print("\n".join(rows(READ)))
    print("\n## Counted\n")
    print("\n".join(rows(COUNTED)))
    print("\n## Timed\n\nHistograms, since the process started.\n")
    print("\n".join(rows(tuple(family for family, _ in TIMED))))


if __name__ == "__main__":
    main()
