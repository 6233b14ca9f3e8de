"""Near-duplicates: which texts are so much alike that they must not be on both sides of a split.

datasketch computes the MinHash signatures. The search for equal bands is done by sorting band keys out of a file, not
by its in-memory index: that would hold some 5 kB a text, here it is 8 bytes at a time, whatever the source weighs.
"""

import hashlib
import os
import re
import zlib
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from datasketch import MinHash
from numpy.typing import NDArray

BUFFER = 1 << 20  # bytes; each row adds a few hundred
ROWS_READ = 1 << 15
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
        self._bands = PERMUTATIONS // self._rows
        self._minhash = MinHash(num_perm=PERMUTATIONS, scheme=SCHEME, hashfunc=int)
        self._signatures = (folder / "signatures").open("w+b", BUFFER)
        self._keys = (folder / "bands").open("w+b", BUFFER)

    def add(self, words: list[str]) -> int:
        signature = self._signature(words)
        self._signatures.write(signature.tobytes())
        bands = signature[: self._bands * self._rows].reshape(self._bands, self._rows)
        self._keys.write((bands * MIXED[: self._rows]).sum(axis=1, dtype=np.uint64).tobytes())
        self.count += 1
        return self.count - 1

    def firsts(self) -> NDArray[np.int64]:
        """For each text the number of the first text of its family."""
        parents = np.arange(self.count)
        if not self.count:
            return parents
        self._signatures.flush()
        self._keys.flush()
        for i in range(self._bands):
            keys = self._band(i)
            order = np.argsort(keys, kind="stable")
            same = keys[order[1:]] == keys[order[:-1]]
            starts = np.maximum.accumulate(np.where(np.r_[True, ~same], np.arange(self.count), 0))
            for place in np.flatnonzero(same) + 1:
                one = order[place]
                for other in {order[place - 1], order[starts[place]]}:
                    if _root(parents, one) != _root(parents, other) and self._alike(one, other):
                        _join(parents, one, other)
        return np.fromiter((_root(parents, i) for i in range(self.count)), np.int64, self.count)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._signatures.close()
        self._keys.close()

    def _signature(self, words: list[str]) -> NDArray[np.uint32]:
        hashes = np.fromiter(map(_hash, words), np.uint64, len(words))
        shingles = max(1, len(words) - SHINGLE + 1)
        parts = [hashes[i : i + shingles] * MIXED[i + 1] for i in range(min(SHINGLE, len(words)))]
        mixed = np.sum(parts, axis=0, dtype=np.uint64) >> np.uint64(32)
        self._minhash.clear()
        self._minhash.update_batch(mixed.tolist() if parts else [0])
        return np.asarray(self._minhash.hashvalues, np.uint32)

    def _band(self, number: int) -> NDArray[np.uint64]:
        """One key of every text. Read, not mapped: pages of a mapped file count as this process's memory."""
        keys = np.empty(self.count, np.uint64)
        self._keys.seek(0)
        for start in range(0, self.count, ROWS_READ):
            rows = np.fromfile(self._keys, np.uint64, ROWS_READ * self._bands).reshape(-1, self._bands)
            keys[start : start + len(rows)] = rows[:, number]
        return keys

    def _alike(self, one: int, other: int) -> bool:
        size = 4 * PERMUTATIONS
        file = self._signatures.fileno()
        signatures = (np.frombuffer(os.pread(file, size, size * int(number)), np.uint32) for number in (one, other))
        return float(np.mean(next(signatures) == next(signatures))) >= self.threshold - SLACK


@lru_cache(1 << 16)
def _hash(word: str) -> int:
    return zlib.crc32(word.encode())


def rows_a_band(threshold: float) -> int:
    """As many as leave a pair that is alike by just `threshold` a chance of 99% to share a band."""
    alike = (rows for rows in range(PERMUTATIONS, 0, -1) if (1 - threshold**rows) ** (PERMUTATIONS // rows) <= 0.01)
    return next(alike, 1)


def _root(parents: NDArray[np.int64], number: int) -> int:
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return int(number)


def _join(parents: NDArray[np.int64], one: int, other: int) -> None:
    """The smaller number stays the root, so that a family is named by its first text."""
    low, high = sorted((_root(parents, one), _root(parents, other)))
    parents[high] = low
