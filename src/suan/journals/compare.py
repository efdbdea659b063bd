"""The comparison of compare-and-append, the same for every journal. Knows sequences only."""

from suan.grid.error import NotNow


def check_head(head: int, after_seq: int) -> None:
    """Returns when facts made from `after_seq` may be written next.

    Raises: NotNow `journal_moved`.
    """
    if head != after_seq:
        raise NotNow(
            "journal_moved",
            f"the journal is at {head}, the facts were made from {after_seq}",
            hint="read what was added and decide again",
            retry_after_s=0,
            head=head,
        )
