"""Examples on disk while a dataset is made: what stays in memory is a few bytes a row, whatever the source weighs."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from reflux.records import Example
from services.teacher_worker.families import BUFFER, Families, Places, equal_keys, md5

FUNCTION = 1  # its instruction can be a prompt
VALIDATION = 2  # its uploader said that it is for validation
HELD_OUT = 4  # a dev or test prompt asks for it by name

DIGEST_BYTES = 8  # of the MD5 of a row's tokens: it decides what is a duplicate, and names a family


@dataclass(frozen=True)
class Table:
    """Rows by number, and for each its family (the number of the family's first row) and its flags. No exact duplicates."""

    rows: Places
    families: Places
    flags: NDArray[np.uint8]

    def only(self, which: NDArray[np.bool_]) -> Self:
        return type(self)(self.rows[which], self.families[which], self.flags[which])

    def flagged(self, flag: int) -> Self:
        return self.only(self.flags & flag > 0)

    def within(self, families: Places) -> NDArray[np.bool_]:
        """Which rows are of one of `families`. By marks: a search would take twenty bytes a row."""
        marks = np.zeros(1 + max(self.families.max(initial=0), families.max(initial=0)), np.bool_)
        marks[families] = True
        return marks[self.families]

    def distinct(self) -> Places:
        """The families, each once, in order."""
        marks = np.zeros(1 + self.families.max(initial=0), np.bool_)
        marks[self.families] = True
        return np.flatnonzero(marks).astype(np.uint32) if len(self) else self.families

    def __len__(self) -> int:
        return len(self.rows)


class Spool:
    """Rows are numbered from 0 as they are added. `domains` counts rows, `lengths` answers by size."""

    def __init__(self, folder: Path, threshold: float) -> None:
        self._open = ExitStack()
        self.families = self._open.enter_context(Families(folder, threshold))
        self._rows = self._open.enter_context((folder / "rows").open("w+b", BUFFER))
        self._digests = self._open.enter_context((folder / "digests").open("w+b"))
        self._ends = self._open.enter_context((folder / "ends").open("w+b"))  # of each row in `rows`, after a 0
        self._ends.write(bytes(8))
        self._size = 0
        self._flags = bytearray()
        self._firsts: Places = np.zeros(0, np.uint32)
        self.domains: Counter[str] = Counter()
        self.lengths: Counter[int] = Counter()

    def __len__(self) -> int:
        return len(self._flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def add(self, example: Example, words: list[str], flags: int = 0) -> None:
        """Keep a row. `words` are the tokens that decide what it duplicates."""
        self._size += self._rows.write(example.model_dump_json().encode())
        self._ends.write(self._size.to_bytes(8))
        self._digests.write(md5(words)[:DIGEST_BYTES])
        self._flags.append(flags)
        self.families.add(words)
        self.domains[example.domain] += 1
        self.lengths[_bucket(len(example.messages[-1].content))] += 1

    def table(self) -> Table:
        """All rows but exact duplicates, of which the first stays. To be called once, after the last row."""
        for file in (self._rows, self._digests, self._ends):
            file.flush()
        self._firsts = firsts = self.families.firsts()
        distinct = [places[~same] for places, same in equal_keys(Path(self._digests.name))]
        rows = np.sort(np.concatenate(distinct))
        return Table(rows, firsts[rows], np.frombuffer(self._flags, np.uint8)[rows])

    def read(self, rows: Iterable[int]) -> Iterator[Example]:
        """Rows by number, with the name of their family, which depends on the family's first text alone."""
        for number in map(int, rows):
            ends = os.pread(self._ends.fileno(), 16, 8 * number)
            start, end = int.from_bytes(ends[:8]), int.from_bytes(ends[8:])
            row = os.pread(self._rows.fileno(), end - start, start)
            family = os.pread(self._digests.fileno(), DIGEST_BYTES, DIGEST_BYTES * int(self._firsts[number])).hex()
            yield Example.model_validate_json(row).model_copy(update={"family": family})


def _bucket(characters: int) -> int:
    """The power of two that `characters` stay under."""
    return 1 << max(6, characters.bit_length())
