"""Source files of C and C++ out of folders and buckets, decoded, each skip counted with its reason."""

import fnmatch
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from reflux.artifacts import Artifacts
from reflux.errors import Terminal
from reflux.spec import Data, Source
from services.teacher_worker import licences

SUFFIXES = frozenset({".c", ".h", ".cc", ".cpp", ".cxx", ".hpp", ".hh"})
READERS = 32  # objects read at once
HEAD = 4096  # characters in which a licence or a generator names itself

GENERATED = re.compile(
    r"@generated|\bdo not (?:edit|modify)\b|\b(?:automatically|auto-?)\s?generated\b|\bgenerated (?:by|from|automatically)\b",
    re.IGNORECASE,
)
# What no text holds: C0 controls other than white space, and the C1 controls that Latin-1 has at 0x80 to 0x9F.
CONTROLS = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x9f]")
CONTROLS_SHARE = 0.02


@dataclass(frozen=True)
class SourceFile:
    """`path` is relative to its source; `licence` the SPDX expression that the file states."""

    path: str
    text: str
    domain: str
    licence: str | None


@dataclass
class Ingest:
    """One pass over the sources. `skipped`, `places` and the counts are complete once `files()` is used up.

    `seen` of the `total` C and C++ files listed so far are read or skipped. `max_files_per_type` counts by domain.
    """

    data: Data
    check: Callable[[], None] = lambda: None
    seen: int = 0
    total: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    places: list[str] = field(default_factory=list)
    _taken: Counter[str] = field(default_factory=Counter)

    def files(self) -> Iterator[SourceFile]:
        """The files that may be used, in the order of the sources and of their paths, READERS of them read ahead.

        A single file that can't be read is skipped; a store that throttles or fails raises Retriable.
        """
        with ThreadPoolExecutor(READERS, thread_name_prefix="ingest") as pool:
            for source in self.data.sources:
                yield from self._files(pool, source)

    def _files(self, pool: ThreadPoolExecutor, source: Source) -> Iterator[SourceFile]:
        store = open_source(source.uri)
        if store is None:
            self.places.append(place(source.uri, False, 0, 0))
            return
        ahead: deque[Future[SourceFile | str]] = deque()
        try:
            for path in self._chosen(store, source):
                ahead.append(pool.submit(self._read, store, source.domain, path))
                if len(ahead) >= 2 * READERS:
                    yield from self._counted(ahead.popleft().result())
            while ahead:
                self.check()
                yield from self._counted(ahead.popleft().result())
        finally:
            for future in ahead:
                future.cancel()

    def _counted(self, result: SourceFile | str) -> Iterator[SourceFile]:
        self.seen += 1
        if isinstance(result, SourceFile):
            yield result
        else:
            self.skipped[result] += 1

    def _chosen(self, store: Artifacts, source: Source) -> Iterator[str]:
        """The paths worth reading, as they are listed."""
        listed = wanted = 0
        for path, size in store.walk():
            self.check()
            listed += 1
            if PurePosixPath(path).suffix.lower() not in SUFFIXES:
                self.skipped["not_c"] += 1
                continue
            wanted += 1
            self.total += 1
            reason = self._unwanted(path, size, source.domain)
            if reason:
                self.seen += 1
                self.skipped[reason] += 1
            else:
                self._taken[source.domain] += 1
                yield path
        self.places.append(place(source.uri, True, listed, wanted))

    def _unwanted(self, path: str, size: int, domain: str) -> str | None:
        if any(fnmatch.fnmatchcase(path, glob) or fnmatch.fnmatchcase(f"/{path}", glob) for glob in self.data.exclude):
            return "excluded"
        if size == 0:
            return "empty"
        if size > self.data.max_file_bytes:
            return "too_large"
        limit = self.data.max_files_per_type
        return "over_limit" if limit is not None and self._taken[domain] >= limit else None

    def _read(self, store: Artifacts, domain: str, path: str) -> SourceFile | str:
        try:
            raw = store.get(path)
        except (FileNotFoundError, Terminal):
            return "unreadable"
        text = decode(raw)
        if text is None:
            return "binary" if b"\0" in raw else "undecodable"
        if not text.strip():
            return "empty"
        head = text[:HEAD]
        if GENERATED.search(head):
            return "generated"
        licence = licences.stated(head)
        if self.data.licences and not licences.allowed(licence, self.data.licences):
            return "licence"
        return SourceFile(path, text, domain, licence)


def open_source(uri: str) -> Artifacts | None:
    """The store below `uri`, or None if it names a folder that does not exist."""
    parts = urlsplit(uri)
    if parts.scheme == "file" and not Path(unquote(parts.path)).is_dir():
        return None
    return Artifacts(uri)


def open_file(uri: str) -> tuple[Artifacts, str]:
    """The store and the path in it of one file. Raises FileNotFoundError if its folder does not exist."""
    folder, _, name = uri.rpartition("/")
    store = open_source(folder)
    if store is None:
        raise FileNotFoundError(uri)
    return store, unquote(name)


def without_sources(store: Artifacts | None, others: int) -> Terminal:
    """The error of a place that holds no file of C or C++, but `others`."""
    what = f"{others} files, none of them C or C++" if store is not None else "there is no such folder"
    return Terminal("empty_dataset", what)


def place(uri: str, exists: bool, listed: int, wanted: int) -> str:
    """One place that was looked at, as a sentence about it."""
    if not exists:
        return f"{uri} (there is no such folder)"
    if not listed:
        return f"{uri} (nothing there)"
    return f"{uri} ({listed} files, {wanted} of them C or C++)"


def decode(raw: bytes) -> str | None:
    """UTF-8, else Latin-1; None for what is no text. Line ends become `\\n`."""
    if b"\0" in raw:
        return None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
        if len(CONTROLS.findall(text)) > CONTROLS_SHARE * len(text):
            return None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_lines(uri: str, longest: int = 8_000_000) -> Iterator[tuple[int, bytes]]:
    """The lines of a JSONL file that are not blank, numbered from 1. Terminal names one over `longest` bytes."""
    store, name = open_file(uri)
    for number, line in enumerate(store.lines(name, longest), 1):
        row = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
        if row.strip():
            yield number, row


__all__ = ["Ingest", "SourceFile", "decode", "open_file", "open_source", "place", "read_lines", "without_sources"]
