"""How long rows are, in tokens of the student's own tokenizer where it can be had; as numbers and as a picture."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import BaseModel
from rich.bar import Bar
from rich.table import Table

from reflux.records import Example
from reflux.spec import Student

MOST_BINS = 16
# Borders of bins, by powers of two: four between each and the next, two, one
BORDERS = [[first << power for power in range(1, 40) for first in firsts] for firsts in ((8, 10, 12, 14), (8, 12), (8,))]


@dataclass(frozen=True)
class Ruler:
    """Measures a row. `why_not_tokens` says why it takes characters."""

    unit: str
    length: Callable[[Example], int]
    why_not_tokens: str = ""


class Bin(BaseModel):
    """Rows longer than the bin before, and at most `up_to` long."""

    up_to: int
    rows: int


class Lengths(BaseModel):
    """Lengths of whole rows. `over` counts those above `limit`; without a limit it is 0."""

    unit: str
    median: int
    longest: int
    limit: int | None
    over: int
    bins: list[Bin]


def ruler(student: Student) -> Ruler:
    """Tokens as training counts them; characters of all turns where there is no tokenizer, or no trainer's libraries."""
    try:
        from services.gpu_trainer.tokenizer import counter

        return Ruler("tokens", counter(student))
    except Exception as error:  # noqa: BLE001 - what is wrong with a tokenizer's file is raised as a bare Exception
        return Ruler("characters", _characters, str(error).strip().split("\n")[0])


def lengths(sizes: Counter[int], unit: str, limit: int | None) -> Lengths:
    """Rows by their size, at least one, in the narrowest bins that make few enough. `limit` is the border of two of them."""
    for edges in BORDERS:
        borders = edges if limit is None else sorted({edge for edge in edges if abs(edge - limit) > limit / 16} | {limit})
        counts = Counter[int]()
        for size, rows in sizes.items():
            counts[bisect_left(borders, size)] += rows
        if max(counts) - min(counts) < MOST_BINS:
            break
    return Lengths(
        unit=unit,
        median=_median(sizes),
        longest=max(sizes),
        limit=limit,
        over=0 if limit is None else sum(rows for size, rows in sizes.items() if size > limit),
        bins=[Bin(up_to=borders[i], rows=counts[i]) for i in range(min(counts), max(counts) + 1)],
    )


def _median(sizes: Counter[int]) -> int:
    """The lower one of two."""
    before = 0
    for size, rows in sorted(sizes.items()):
        before += rows
        if 2 * before >= sizes.total():
            return size
    raise ValueError("there are no rows")


def picture(measured: Lengths) -> Table:
    """A bar a bin; red above the limit. Fits into 80 columns."""
    table = Table.grid(padding=(0, 1))
    for _ in range(2):
        table.add_column(justify="right", no_wrap=True)
    most = max(one.rows for one in measured.bins)
    for one in measured.bins:
        over = measured.limit is not None and one.up_to > measured.limit
        bar = Bar(most, 0, one.rows, width=44, color="red" if over else "cyan")
        table.add_row(f"≤ {one.up_to:,}", f"{one.rows:,}", bar, "over" if over and one.rows else "")
    return table


def _characters(row: Example) -> int:
    return sum(len(message.content) for message in row.messages)
