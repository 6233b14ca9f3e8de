"""Examples on disk while a dataset is made: what stays in memory is a few bytes a row, whatever the source weighs."""

from array import array
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
from services.teacher_worker.families import BUFFER, Families, md5

FUNCTION = 1  # its instruction can be a prompt
VALIDATION = 2  # its uploader said that it is for validation
HELD_OUT = 4  # a dev or test prompt asks for it by name

NAME_BYTES = 8  # of a digest, as hexadecimal digits
DIGEST = np.dtype([("high", ">u8"), ("low", ">u8")])


@dataclass(frozen=True)
class Table:
    """Rows by number, and for each its family (the number of the family's first row) and its flags. No exact duplicates."""

    rows: NDArray[np.int64]
    families: NDArray[np.int64]
    flags: NDArray[np.uint8]

    def only(self, which: NDArray[np.bool_]) -> Self:
        return type(self)(self.rows[which], self.families[which], self.flags[which])

    def flagged(self, flag: int) -> Self:
        return self.only(self.flags & flag > 0)

    def __len__(self) -> int:
        return len(self.rows)


class Spool:
    """Rows are numbered from 0 as they are added. `domains` counts rows, `lengths` answers by size."""

    def __init__(self, folder: Path, threshold: float) -> None:
        self._open = ExitStack()
        self.families = self._open.enter_context(Families(folder, threshold))
        self._rows = self._open.enter_context((folder / "rows").open("w+b", BUFFER))
        self._digests = self._open.enter_context((folder / "digests").open("w+b"))
        self._offsets = array("Q", [0])
        self._flags = array("B")
        self._firsts = np.zeros(0, np.int64)
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
        written = self._rows.write(example.model_dump_json().encode())
        self._offsets.append(self._offsets[-1] + written)
        self._digests.write(md5(words))
        self._flags.append(flags)
        self.families.add(words)
        self.domains[example.domain] += 1
        self.lengths[_bucket(len(example.messages[-1].content))] += 1

    def table(self) -> Table:
        """All rows but exact duplicates, of which the first stays."""
        self._digests.flush()
        digests = np.fromfile(self._digests.name, DIGEST)
        self._firsts = firsts = self.families.firsts()
        rows = np.sort(np.unique(digests, return_index=True)[1])
        flags = np.array(self._flags, np.uint8)
        return Table(rows, firsts[rows], flags[rows])

    def read(self, rows: Iterable[int]) -> Iterator[Example]:
        """Rows by number, with the name of their family, which depends on the family's first text alone."""
        self._rows.flush()
        for number in rows:
            self._rows.seek(self._offsets[number])
            row = self._rows.read(self._offsets[number + 1] - self._offsets[number])
            self._digests.seek(DIGEST.itemsize * int(self._firsts[number]))
            family = self._digests.read(NAME_BYTES).hex()
            yield Example.model_validate_json(row).model_copy(update={"family": family})


def _bucket(characters: int) -> int:
    """The power of two that `characters` stay under."""
    return 1 << max(6, characters.bit_length())
