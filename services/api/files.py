"""A run's artifacts as users see them: listed, read whole or in part, or signed for. No path leads out of the run's folder."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import IO

import obstore
from obstore.store import AzureStore, GCSStore, S3Store

from reflux.artifacts import Artifacts, run_folder, translated
from reflux.views import ArtifactView
from services.api.problems import ProblemError

SIGNED_FOR = timedelta(minutes=15)
PART = 1_000_000  # bytes read at a time
# One part of a path: no `.` or `..`, nothing that a shell, a terminal or a file system would take for more than a name
NAME = re.compile(r"(?!\.{1,2}$)[^/\\\x00-\x1f\x7f]{1,255}(?<!#\d)")


@dataclass(frozen=True)
class Piece:
    """Bytes [start, stop) of an artifact of `size` bytes."""

    path: str
    size: int
    start: int
    stop: int
    tag: str

    @property
    def partial(self) -> bool:
        return self.stop - self.start < self.size


def listed(artifacts: Artifacts, run_id: str, after: str | None, limit: int) -> list[ArtifactView]:
    """What the run has left, in path order, from the one after `after` on."""
    folder = run_folder(run_id) + "/"
    found = ((path.removeprefix(folder), size) for path, size in artifacts.walk(folder))
    return [ArtifactView(path=path, size=size) for path, size in islice((f for f in found if f[0] > (after or "")), limit)]


def find(artifacts: Artifacts, run_id: str, path: str, wanted: str | None = None) -> Piece:
    """The artifact, or the part of it that a Range header asks for. 404, or 416 for a range that lies outside."""
    full = f"{run_folder(run_id)}/{path}"
    if len(full) > 1000 or not all(NAME.fullmatch(part) for part in path.split("/")):
        raise _not_found(path)
    try:
        meta = obstore.head(artifacts.store, full)
    except FileNotFoundError as error:
        raise _not_found(path) from error
    except Exception as error:
        raise translated(error, artifacts.url) from error
    size = meta["size"]
    start, stop = _range(wanted, size)
    return Piece(full, size, start, stop, str(meta["e_tag"] or f'"{size}"'))


def stream(artifacts: Artifacts, piece: Piece) -> Iterator[bytes]:
    for start in range(piece.start, piece.stop, PART):
        yield bytes(obstore.get_range(artifacts.store, piece.path, start=start, end=min(start + PART, piece.stop)))


def signed_url(artifacts: Artifacts, piece: Piece) -> str | None:
    """An address that gives the artifact to anybody for a while; None where the store can't sign."""
    if not isinstance(artifacts.store, S3Store | GCSStore | AzureStore):
        return None
    url: str = obstore.sign(artifacts.store, "GET", piece.path, SIGNED_FOR)
    return url


def put(artifacts: Artifacts, path: str, file: IO[bytes]) -> None:
    """Store a file of any size, whole or not at all."""
    try:
        obstore.put(artifacts.store, path, file)
    except Exception as error:
        raise translated(error, artifacts.url) from error


def sizes(artifacts: Artifacts, run_id: str) -> dict[str, int]:
    """Bytes by path below the run's folder."""
    folder = run_folder(run_id) + "/"
    return {path.removeprefix(folder): size for path, size in artifacts.sizes(folder).items()}


def everything(artifacts: Artifacts) -> Iterator[tuple[str, str, int]]:
    """Of all runs: the run's id, the path below its folder, and the size in bytes."""
    try:
        for batch in obstore.list(artifacts.store, run_folder("")):
            for entry in batch:
                _, run_id, path = entry["path"].split("/", 2)
                yield run_id, path, entry["size"]
    except Exception as error:
        raise translated(error, artifacts.url) from error


def remove(artifacts: Artifacts, run_id: str, which: Callable[[str], bool] = lambda _: True) -> None:
    """Delete what is below the run's folder, or of it the paths that `which` says."""
    folder = run_folder(run_id) + "/"
    try:
        for batch in obstore.list(artifacts.store, folder):
            chosen = [entry["path"] for entry in batch if which(entry["path"].removeprefix(folder))]
            if chosen:
                obstore.delete(artifacts.store, chosen)
    except Exception as error:
        raise translated(error, artifacts.url) from error


def _range(wanted: str | None, size: int) -> tuple[int, int]:
    """Of a header in another form, or with several ranges, nothing is read: the whole is a right answer to it too."""
    found = re.fullmatch(r"bytes=(\d{0,18})-(\d{0,18})", wanted or "")
    if found is None or not any(found.groups()):
        return 0, size
    first, last = found.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
    if start >= stop:
        raise ProblemError(416, "no_such_range", f"The artifact has {size} bytes.", f"Ask for a range within 0-{size - 1}.")
    return start, stop


def _not_found(path: str) -> ProblemError:
    return ProblemError(404, "artifact_not_found", f"This run has no artifact {path[:200]}.", "List the artifacts it has.")
