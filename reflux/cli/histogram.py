"""How long rows are, in tokens of the student's own tokenizer where it can be had; as numbers and as a picture."""

import os
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from statistics import median_low
from typing import Any

from pydantic import BaseModel
from rich.bar import Bar
from rich.table import Table

from reflux.records import Example
from reflux.spec import Student

MOST_BINS = 16
# Borders of bins, by powers of two: four between each and the next, two, one
BORDERS = [[first << power for power in range(1, 40) for first in firsts] for firsts in ((8, 10, 12, 14), (8, 12), (8,))]
HUB_FILES = ["tokenizer*", "special_tokens_map.json", "vocab.*", "merges.txt", "*.jinja", "*.model", "config.json"]


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
    """Tokens as training counts them: chat template, system prompt and end mark included. Else characters of all turns."""
    try:
        from services.gpu_trainer.chat import encode

        tokenizer = _tokenizer(student)
    except Exception as error:  # noqa: BLE001 - what is wrong with a tokenizer's file is raised as a bare Exception
        return Ruler("characters", _characters, str(error).strip().split("\n")[0])
    ends = frozenset({tokenizer.eos_token_id})
    return Ruler("tokens", lambda row: len(encode(tokenizer, ends, row.id, row.messages, sys.maxsize).ids))


def lengths(sizes: Iterable[int], unit: str, limit: int | None) -> Lengths:
    """Count `sizes`, at least one, in the narrowest bins that make few enough. `limit` is the border of two of them."""
    ordered = sorted(sizes)
    for edges in BORDERS:
        borders = edges if limit is None else sorted({edge for edge in edges if abs(edge - limit) > limit / 16} | {limit})
        counts = Counter(bisect_left(borders, size) for size in ordered)
        if max(counts) - min(counts) < MOST_BINS:
            break
    return Lengths(
        unit=unit,
        median=median_low(ordered),
        longest=ordered[-1],
        limit=limit,
        over=0 if limit is None else sum(size > limit for size in ordered),
        bins=[Bin(up_to=borders[i], rows=counts[i]) for i in range(min(counts), max(counts) + 1)],
    )


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


def _tokenizer(student: Student) -> Any:
    """The student's tokenizer without its weights. An exception says why there is none here."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    from huggingface_hub import snapshot_download

    from services.gpu_trainer import chat, weights

    load = weights.AutoTokenizer.from_pretrained  # type: ignore[attr-defined]  # only the trainer knows transformers
    if student.model.startswith("package:"):
        package, _, inside = student.model.removeprefix("package:").partition("/")
        file = Path(str(metadata.distribution(package).locate_file(inside)))
        if not file.is_file():
            raise FileNotFoundError(f"The package {package} has no file {inside}.")
        tokenizer = load(file.parent, gguf_file=file.name, trust_remote_code=False)
    else:
        folder = Path(student.model).expanduser()
        if not folder.is_dir():
            if student.model.startswith(("/", ".", "~")):
                raise FileNotFoundError(f"There is no folder {folder}.")
            folder = Path(snapshot_download(student.model, revision=student.revision, allow_patterns=HUB_FILES))
        tokenizer = load(folder, trust_remote_code=False)
    tokenizer.model_max_length = sys.maxsize  # else it warns of each row that is longer
    tokenizer.chat_template = tokenizer.chat_template or chat.FALLBACK_TEMPLATE
    return tokenizer
