"""JSON, JSONL and folders over an object store (s3://, gs://, az://, file://, memory://).

Paths are relative to the store's root, with `/` between their parts; a path can't leave the root. A put is atomic:
a reader sees the old object or the new one.
"""

import errno
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError, GenericError, PermissionDeniedError, UnauthenticatedError
from obstore.store import ObjectStore, from_url
from pydantic import BaseModel

from reflux.errors import RefluxError, Retriable, Terminal
from reflux.secret import secret

Row = TypeVar("Row", bound=BaseModel)
Entry = tuple[str, int | None]  # a path and its size in bytes; a folder's path ends in `/`, and it has no size

LISTED_AHEAD = 8  # folders
READ_BYTES = 1 << 22  # of a file that is read line by line
LONGEST_LINE = 1 << 26  # bytes
PARTS_AT_ONCE = 4  # of 5 MB, of a file on its way to the store

# Below the waits of the policy table, so that a worker hears of a dead store within seconds
RETRIES = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=20),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


class Artifacts:
    """One object store. Reading what is not there raises FileNotFoundError; the store's own errors become RefluxErrors.

    An s3:// store is set by the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY (or …_FILE), AWS_SESSION_TOKEN,
    AWS_REGION; for a server that is not Amazon's AWS_ENDPOINT (or AWS_ENDPOINT_URL), and AWS_ALLOW_HTTP=true where it
    speaks plain HTTP.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            self.store = from_url(url, **_options(url))
        except Exception as error:
            raise translated(error, url) from error

    def put(self, path: str, data: bytes) -> None:
        self._call(obstore.put, path, data)

    def create(self, path: str, data: bytes) -> bool:
        """Put unless there is something at `path` already; False if there was."""
        try:
            self._call(obstore.put, path, data, mode="create")
        except AlreadyExistsError:
            return False
        return True

    def get(self, path: str) -> bytes:
        data: bytes = self._call(lambda store: bytes(obstore.get(store, path).bytes()))
        return data

    def exists(self, path: str) -> bool:
        try:
            self._call(obstore.head, path)
        except FileNotFoundError:
            return False
        return True

    def paths(self, prefix: str) -> list[str]:
        """All paths below the folder `prefix`, sorted."""
        return list(self.sizes(prefix))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The size in bytes of all that is below the folder `prefix`, by path, sorted. Without a prefix: of everything."""
        folder = prefix.rstrip("/") + "/" if prefix else None
        found = self._call(lambda store: [(e["path"], e["size"]) for batch in obstore.list(store, folder) for e in batch])
        return dict(sorted(found))

    def walk(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """Path and size in bytes of all that is below the folder `prefix`, in path order, whatever order the store lists in.

        Folder by folder, some of them ahead: memory holds the folders on the way to one path, never all paths. On a disk a
        link to a folder around it is left out, and a name that is not UTF-8 is listed, but can't be read.
        """
        url = urlsplit(self.url)
        listing = partial(self._call, partial(_on_disk, Path(unquote(url.path))) if url.scheme == "file" else _on_store)
        pool = ThreadPoolExecutor(LISTED_AHEAD, thread_name_prefix="list")
        try:
            yield from _walk(pool, listing, listing(prefix.rstrip("/") + "/" if prefix else ""))
        finally:
            pool.shutdown(cancel_futures=True)

    def delete(self, path: str) -> None:
        """Delete what is at `path`; no error if there is nothing."""
        try:
            self._call(obstore.delete, path)
        except FileNotFoundError:
            pass

    def put_json(self, path: str, value: Any) -> None:
        if isinstance(value, BaseModel):
            value = value.model_dump(mode="json")
        self.put(path, (json.dumps(value, indent=2) + "\n").encode())

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def write_rows(self, path: str, rows: Iterable[BaseModel]) -> int:
        """Write rows as JSONL; how many."""
        lines = [row.model_dump_json() for row in rows]
        self.put(path, "".join(line + "\n" for line in lines).encode())
        return len(lines)

    def read_rows(self, path: str, model: type[Row]) -> Iterator[Row]:
        for line in self.lines(path):
            if line.strip():
                yield model.model_validate_json(line)

    def lines(self, path: str, longest: int = LONGEST_LINE) -> Iterator[bytes]:
        """The lines of a file without their ends; memory holds a few MB. Terminal names one that is over `longest` bytes."""
        number, begun = 1, b""
        for read in self._pieces(path):
            # Not splitlines: U+2028 and its like are legal inside a JSON string.
            *whole, begun = (begun + read).split(b"\n")
            for i, line in enumerate((*whole, begun)):
                if len(line) > longest:
                    hint = "Look whether it is JSONL at all: one JSON object a line."
                    where = f"{self.url.rstrip('/')}/{path}, line {number + i}"
                    raise Terminal("invalid_dataset", f"{where}: longer than {longest} bytes", hint)
            yield from whole
            number += len(whole)
        if begun:
            yield begun

    def _pieces(self, path: str) -> Iterator[bytes]:
        """A request for each, as one that lasts as long as whoever reads would be cut off by the store."""
        found = self._call(obstore.get, path)
        size = found.meta["size"]
        if size <= READ_BYTES:
            yield self._call(lambda _: bytes(found.bytes()))
            return
        for start in range(0, size, READ_BYTES):
            yield bytes(self._call(obstore.get_range, path, start=start, end=min(start + READ_BYTES, size)))

    def upload(self, folder: Path, prefix: str) -> list[str]:
        """Copy every file below `folder` to below `prefix`; the paths written."""
        written = []
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                path = f"{prefix.rstrip('/')}/{file.relative_to(folder).as_posix()}"
                self._call(obstore.put, path, file, max_concurrency=PARTS_AT_ONCE)
                written.append(path)
        return written

    def download(self, prefix: str, folder: Path) -> Path:
        """Copy everything below `prefix` into `folder`. FileNotFoundError if there is nothing."""
        paths = self.paths(prefix)
        if not paths:
            raise FileNotFoundError(f"nothing below {prefix} in {self.url}")
        for path in paths:
            target = folder / path.removeprefix(prefix.rstrip("/") + "/")
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as out:
                self._call(_write_to, path, out)
        return folder

    def put_file(self, path: str, file: Path) -> None:
        self._call(obstore.put, path, file)

    def fetch(self, path: str, file: Path) -> None:
        """Copy the object at `path` into `file`."""
        with file.open("wb") as out:
            self._call(_write_to, path, out)

    def copy(self, source: str, target: str) -> None:
        self._call(obstore.copy, source, target)

    def _call(self, function: Any, *arguments: Any, **options: Any) -> Any:
        try:
            return function(self.store, *arguments, **options)
        except AlreadyExistsError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise translated(error, self.url) from error
            raise
        except Exception as error:
            raise translated(error, self.url) from error


def _write_to(store: ObjectStore, path: str, out: BinaryIO) -> None:
    out.writelines(obstore.get(store, path).stream())


def _walk(pool: ThreadPoolExecutor, listing: Callable[[str], list[Entry]], entries: list[Entry]) -> Iterator[tuple[str, int]]:
    folders = (path for path, size in entries if size is None)
    ahead: deque[Future[list[Entry]]] = deque(pool.submit(listing, path) for path in islice(folders, LISTED_AHEAD))
    for path, size in entries:
        if size is not None:
            yield path, size
            continue
        inside = ahead.popleft().result()
        ahead.extend(pool.submit(listing, path) for path in islice(folders, 1))
        yield from _walk(pool, listing, inside)


def _on_store(store: ObjectStore, folder: str) -> list[Entry]:
    found = obstore.list_with_delimiter(store, folder or None)
    return sorted(
        [*((e["path"], e["size"]) for e in found["objects"]), *((f"{path}/", None) for path in found["common_prefixes"])]
    )


def _on_disk(root: Path, _: ObjectStore, folder: str) -> list[Entry]:
    entries: list[Entry] = []
    if not (root / folder).is_dir():
        return entries
    with os.scandir(root / folder) as found:
        for entry in found:
            with suppress(FileNotFoundError):  # gone since
                if entry.is_file():
                    entries.append((folder + entry.name, entry.stat().st_size))
                elif entry.is_dir() and not (entry.is_symlink() and _goes_round(root, Path(entry.path))):
                    entries.append((f"{folder}{entry.name}/", None))
    return sorted(entries)


def _goes_round(root: Path, link: Path) -> bool:
    target = link.resolve()
    return any(parent.resolve() == target for parent in link.parents if parent.is_relative_to(root))


def _options(url: str) -> dict[str, Any]:
    match url.split(":", maxsplit=1)[0]:
        case "file":
            return {"mkdir": True}
        case "s3" | "s3a":
            return {"retry_config": RETRIES, **_keys()}
        case "gs" | "az":
            return {"retry_config": RETRIES}
        case "http" | "https":  # obstore would post anywhere in the network
            raise ValueError("files are not exchanged over HTTP")
    return {}


def _keys() -> dict[str, str]:
    """The keys of an S3 store. Where none are named, obstore looks further: a role, the machine's own identity."""
    keys = {"access_key_id": secret("AWS_ACCESS_KEY_ID"), "secret_access_key": secret("AWS_SECRET_ACCESS_KEY")}
    return {name: key for name, key in keys.items() if key}


def translated(error: Exception, url: str) -> RefluxError:
    """The RefluxError that says what an object store's error means."""
    text = str(error).split("\n")[0][:300]
    refused = re.search(r"status code: (\d+)", text)
    status = int(refused[1]) if refused else None
    if isinstance(error, PermissionDeniedError | UnauthenticatedError | PermissionError) or status in (401, 403):
        return Terminal("access_denied", f"No right to read or write {url}: {text}")
    if "NoSuchBucket" in str(error):
        return Terminal("no_such_bucket", f"There is no bucket at {url}")
    if isinstance(error, ValueError) or "Unable to recognise URL" in text:
        hint = "Name a folder or a bucket: file:///…, s3://…, gs://… or az://…."
        return Terminal("access_denied", f"{url} is not a place that can be read or written: {text}", hint)
    if getattr(error, "errno", None) == errno.ENOSPC:  # of what was fetched
        return Retriable("disk_low", f"No space is left on the disk of whoever reads {url}: {text}")
    if os.strerror(errno.ENOSPC) in text:
        return Retriable("s3_timeout", f"{url}: {text}", "Free space where the artifacts are kept, or move them.")
    if status in (429, 503) or "SlowDown" in str(error):
        return Retriable("s3_throttled", f"{url}: {text}")
    if isinstance(error, GenericError | OSError | TimeoutError):
        return Retriable("s3_timeout", f"{url}: {text}")
    return Retriable("internal", f"{type(error).__name__} from {url}: {text}")


def run_folder(run_id: str) -> str:
    return f"runs/{run_id}"


def attempt_folder(run_id: str, key: str, attempt: int) -> str:
    """Where one attempt writes. What no accepted fact names is collected by cleanup."""
    return f"runs/{run_id}/tasks/{key}/attempt-{attempt}"


def pieces_folder(run_id: str, key: str) -> str:
    """Finished pieces of a command (chunks, checkpoints), shared by its attempts."""
    return f"runs/{run_id}/pieces/{key}"


def asked_path(answer_path: str) -> str:
    """How often the teacher was asked for an answer that is not there yet."""
    return answer_path.removesuffix(".json") + ".asked"


def shared_answer_path(fingerprint: str) -> str:
    """One bought answer that any run may use."""
    return f"teacher-answers/{fingerprint[:2]}/{fingerprint}.json"


def teacher_answer_path(run_id: str, purpose: str, prompt_id: str, ask: int) -> str:
    """One bought answer, create-only, shared by every task and attempt of the run."""
    return f"runs/{run_id}/pieces/teacher/{purpose}/{prompt_id}-{ask}.json"
