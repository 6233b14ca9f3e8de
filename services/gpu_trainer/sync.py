"""Folders of a job to and from object stores: counted, told as progress, several files at once."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from reflux.artifacts import Artifacts
from reflux.errors import POLICIES, Retriable, Terminal, next_wait

Result = TypeVar("Result")

AT_ONCE = 8


@dataclass
class Copied:
    """What was copied so far, and how often something had to be tried again."""

    files: int = 0
    bytes: int = 0
    retries: int = 0

    def __add__(self, other: "Copied") -> "Copied":
        return Copied(self.files + other.files, self.bytes + other.bytes, self.retries + other.retries)


@dataclass
class Sync:
    """`check` raises when the copying is to end; `tell` hears of bytes done, bytes in all."""

    check: Callable[[], None]
    tell: Callable[[int, int], None]
    log: Callable[[str], None]

    def down(self, store: Artifacts, sizes: dict[str, int], folder: Path, prefix: str = "") -> Copied:
        """The objects of `sizes`, which lie below `prefix`, into `folder`. A path that would leave the folder is refused."""
        pairs = [(path, folder / path.removeprefix(f"{prefix}/" if prefix else ""), size) for path, size in sizes.items()]
        for path, target, _ in pairs:
            if not target.resolve().is_relative_to(folder.resolve()):
                raise Terminal("access_denied", f"{path} in {store.url} would be written outside of the job's folder")

        def fetch(path: str, target: Path) -> None:
            target.parent.mkdir(parents=True, exist_ok=True)
            store.fetch(path, target)

        return self._copy(((fetch, path, target, size) for path, target, size in pairs), sum(sizes.values()), patient=False)

    def up(self, files: dict[str, Path], store: Artifacts, prefix: str, *, patient: bool) -> Copied:
        """`files` by their paths below `prefix`. `patient`: what the store refuses for a while is tried again and again."""
        sized = [(name, file, file.stat().st_size) for name, file in files.items()]

        def send(name: str, file: Path) -> None:
            store.put_file(f"{prefix}/{name}", file)

        return self._copy(((send, name, file, size) for name, file, size in sized), sum(s for *_, s in sized), patient=patient)

    def _copy(self, pairs: Iterable[tuple[Callable[[str, Path], None], str, Path, int]], total: int, *, patient: bool) -> Copied:
        copied = Copied()

        def one(pair: tuple[Callable[[str, Path], None], str, Path, int]) -> int:
            copy, name, file, size = pair
            self.check()
            if patient:
                self.again(lambda: copy(name, file), copied)
            else:
                copy(name, file)
            return size

        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="sync") as pool:
            for size in pool.map(one, pairs):
                copied.files += 1
                copied.bytes += size
                self.tell(copied.bytes, total)
        return copied

    def again(self, work: Callable[[], Result], copied: Copied) -> Result:
        """Do `work`, again by the policy table's waits, the last of them again and again: hours of training hang on it."""
        failures = 0
        while True:
            try:
                return work()
            except Retriable as error:
                failures += 1
                wait = next_wait(error.code, failures) or POLICIES[error.code].waits[-1]
                copied.retries += 1
                self.log(f"{error}; tried again in {wait:g} s")
                self._rest(wait)

    def _rest(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.check()
            time.sleep(0.2)


def files_below(folder: Path) -> dict[str, Path]:
    """The plain files below `folder`, by their paths in it. Links that lead out of it are left out."""
    return dict(_files_below(folder))


def _files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    root = folder.resolve()
    for file in sorted(folder.rglob("*")):
        if file.is_file() and file.resolve().is_relative_to(root):
            yield file.relative_to(folder).as_posix(), file


@dataclass
class Mirror:
    """Keeps a folder of checkpoints as it is, in the store: what is new or has changed goes there, what is gone goes."""

    sync: Sync
    folder: Path
    store: Artifacts
    prefix: str
    known: dict[str, tuple[int, int]]

    @classmethod
    def restored(cls, sync: Sync, folder: Path, store: Artifacts, prefix: str) -> "tuple[Mirror, Copied]":
        copied = sync.down(store, store.sizes(prefix), folder, prefix)
        return cls(sync, folder, store, prefix, _state(folder)), copied

    def save(self) -> int:
        """How many files were stored."""
        state = _state(self.folder)
        new = {name: self.folder / name for name in state if state[name] != self.known.get(name)}
        if new:
            self.sync.up(new, self.store, self.prefix, patient=False)
        for name in self.known.keys() - state.keys():
            self.store.delete(f"{self.prefix}/{name}")
        self.known = state
        return len(new)


def _state(folder: Path) -> dict[str, tuple[int, int]]:
    return {name: ((found := file.stat()).st_mtime_ns, found.st_size) for name, file in files_below(folder).items()}
