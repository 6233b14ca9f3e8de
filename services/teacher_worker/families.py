"""Near-duplicates: which texts are so much alike that they must not be on both sides of a split.

datasketch computes the MinHash signatures. The search for equal bands is done by sorting band keys out of files, not
by its in-memory index: that would hold some 5 kB a text, here it is 4 bytes, whatever the source weighs.
"""

import hashlib
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

Places = NDArray[np.uint32]

BUFFER = 1 << 20  # bytes; each row adds a few hundred
WRITTEN = 1 << 12  # rows whose keys are written at once
READ = 1 << 16  # keys
SORTED = 1 << 18  # keys, about
PERMUTATIONS = 128
SHINGLE = 5  # tokens
SLACK = 0.05  # the estimate of a similarity errs by about 0.03 with 128 permutations; rather too alike than not enough
SCHEME = "affine32"
# Odd, so that no bit of a token or of a signature is lost
MIXED = (np.arange(PERMUTATIONS, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)

COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
TOKEN = re.compile(r"\w+|[^\w\s]")


def tokens(text: str) -> list[str]:
    """The tokens of C-like text without its comments: what makes two texts the same, whatever their layout."""
    return TOKEN.findall(COMMENT.sub(" ", text))


def md5(words: list[str]) -> bytes:
    return hashlib.md5("\x1f".join(words).encode(), usedforsecurity=False).digest()


class Families:
    """Numbers texts from 0 as they are added. Similarity: Jaccard, over shingles of five tokens."""

    def __init__(self, folder: Path, threshold: float) -> None:
        self.threshold = threshold
        self.count = 0
        self._rows = rows_a_band(threshold)
        self._minhash = MinHash(num_perm=PERMUTATIONS, scheme=SCHEME, hashfunc=int)
        self._open = ExitStack()
        self._signatures = self._open.enter_context((folder / "signatures").open("w+b", BUFFER))
        bands = range(PERMUTATIONS // self._rows)
        self._bands = [self._open.enter_context((folder / f"band-{i}").open("w+b")) for i in bands]
        self._keys = np.empty((WRITTEN, len(bands)), np.uint64)

    def add(self, words: list[str]) -> int:
        signature = self._signature(words)
        self._signatures.write(signature.tobytes())
        bands = signature[: len(self._bands) * self._rows].reshape(-1, self._rows)
        self._keys[self.count % WRITTEN] = (bands * MIXED[: self._rows]).sum(axis=1, dtype=np.uint64)
        self.count += 1
        if self.count % WRITTEN == 0:
            self._write_keys(WRITTEN)
        return self.count - 1

    def firsts(self) -> Places:
        """For each text the number of the first text of its family. To be called once, after the last text."""
        self._write_keys(self.count % WRITTEN)
        self._signatures.flush()
        parents = np.arange(self.count, dtype=np.uint32)
        for band in self._bands:
            band.flush()
            for places, same in equal_keys(Path(band.name)):
                starts = np.maximum.accumulate(np.where(same, 0, np.arange(len(places))))
                for i in np.flatnonzero(same):
                    one = int(places[i])
                    for other in {int(places[i - 1]), int(places[starts[i]])}:
                        if _root(parents, one) != _root(parents, other) and self._alike(one, other):
                            _join(parents, one, other)
        while not np.array_equal(parents, above := parents[parents]):
            parents = above
        return parents

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def _write_keys(self, rows: int) -> None:
        for i, band in enumerate(self._bands):
            band.write(self._keys[:rows, i].tobytes())

    def _signature(self, words: list[str]) -> NDArray[np.uint32]:
        hashes = np.fromiter(map(_hash, words), np.uint64, len(words))
        shingles = max(1, len(words) - SHINGLE + 1)
        parts = [hashes[i : i + shingles] * MIXED[i + 1] for i in range(min(SHINGLE, len(words)))]
        mixed = np.sum(parts, axis=0, dtype=np.uint64) >> np.uint64(32)
        self._minhash.clear()
        self._minhash.update_batch(mixed.tolist() if parts else [0])
        return np.asarray(self._minhash.hashvalues, np.uint32)

    def _alike(self, one: int, other: int) -> bool:
        size = 4 * PERMUTATIONS
        file = self._signatures.fileno()
        signatures = (np.frombuffer(os.pread(file, size, size * number), np.uint32) for number in (one, other))
        return float(np.mean(next(signatures) == next(signatures))) >= self.threshold - SLACK


def equal_keys(file: Path) -> Iterator[tuple[Places, NDArray[np.bool_]]]:
    """The places of the file's 8-byte keys, by key and then by place; and of each, whether it has the key before it.

    In parts of about SORTED keys; equal keys are in one part. Read, not mapped: pages of a mapped file count as memory.
    """
    count = file.stat().st_size // 8
    parts = -(-count // SORTED)
    for part in range(parts):
        keys, places = [], []
        for start in range(0, count, READ):
            read = np.fromfile(file, np.uint64, READ, offset=8 * start)
            chosen = np.flatnonzero(read % parts == part)
            keys.append(read[chosen])
            places.append((chosen + start).astype(np.uint32))
        of_part = np.concatenate(keys)
        order = np.argsort(of_part, kind="stable")
        of_part = of_part[order]
        yield np.concatenate(places)[order], np.r_[False, of_part[1:] == of_part[:-1]]


@lru_cache(1 << 16)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode())


def rows_a_band(threshold: float) -> int:
    """As many as leave a pair that is alike by just `threshold` a chance of 99% to share a band."""
    alike = (rows for rows in range(PERMUTATIONS, 0, -1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= 0.01)
    return next(alike, 1)


def _root(parents: Places, number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = int(parents[number])
    return number


def _join(parents: Places, one: int, other: int) -> None:
    """The smaller number stays the root, so that a family is named by its first text."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
