"""The Python client: typed, sync. Reads are tried again; a create is safe to repeat, as it carries an Idempotency-Key.

with Client(url, key) as reflux:
    run = reflux.create(spec)
    run = reflux.wait(run.id)
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, TypeAdapter

from reflux.completions import Checkpoint, CompletionRequest, CompletionView, Piece, Waiting
from reflux.previews import Holds, Preview, PreviewRequest
from reflux.records import Message
from reflux.views import (
    AnswerList,
    ArtifactList,
    CheckpointList,
    DatasetView,
    Decision,
    DryRun,
    EpochList,
    EventList,
    EventView,
    KeyList,
    KeyMade,
    KeyView,
    LogList,
    ModelList,
    ModelView,
    NewKey,
    PresetList,
    PresetView,
    Problem,
    ReadyView,
    ResourceView,
    RetentionPlan,
    ReviewView,
    Role,
    RunList,
    RunView,
    SeriesList,
    WorkerView,
)

View = TypeVar("View", bound=BaseModel)
Tell = Callable[[int], object]

TRIES = 6
PART_BYTES = 65536
AWAY = (429, 502, 503, 504)  # try again later
_inert = partial(quote, safe="")  # as one part of a path: an id leads nowhere else


class ApiError(Exception):
    """The API's refusal, as it gave it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Unreachable(Exception):
    """No answer from the API after several tries."""


class Client:
    def __init__(self, url: str, key: str, *, tries: int = TRIES, timeout: float = 30) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
        self.tries = tries

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.http.close()

    def create(self, spec: dict[str, Any], idempotency_key: str | None = None) -> RunView:
        key = idempotency_key or secrets.token_hex(16)
        return self._call(RunView, "POST", "/v1/runs", json=spec, headers={"Idempotency-Key": key})

    def dry_run(self, spec: dict[str, Any]) -> DryRun:
        """Check a spec and estimate its run; nothing is created."""
        return self._call(DryRun, "POST", "/v1/runs", json=spec, params={"dry_run": True})

    def run(self, run_id: str) -> RunView:
        return self._call(RunView, "GET", f"/v1/runs/{_inert(run_id)}")

    def runs(self, **filters: str | int | None) -> RunList:
        return self._call(RunList, "GET", "/v1/runs", params=_given(filters))

    def abort(self, run_id: str, *, discard: bool = False) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{_inert(run_id)}/abort", params={"discard": discard})

    def pause(self, run_id: str) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{_inert(run_id)}/pause")

    def resume(self, run_id: str) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{_inert(run_id)}/resume")

    def delete(self, run_id: str, *, artifacts: bool = False) -> None:
        """Forget a run that is over; with `artifacts`, what it made too."""
        self._request("DELETE", f"/v1/runs/{_inert(run_id)}", params={"artifacts": artifacts})

    def epochs(self, run_id: str, after: int = 0, limit: int = 100) -> EpochList:
        return self._call(EpochList, "GET", f"/v1/runs/{_inert(run_id)}/epochs", params={"after": after, "limit": limit})

    def answers(self, run_id: str, epoch: int | None = None, **filters: str | int | None) -> AnswerList:
        """Scored answers of an epoch (the newest): `order` worst or prompt; `model`, `set`, `after`, `limit`."""
        return self._call(AnswerList, "GET", f"/v1/runs/{_inert(run_id)}/answers", params=_given(filters | {"epoch": epoch}))

    def metrics(self, run_id: str, *names: str, max_points: int = 500) -> SeriesList:
        params: dict[str, Any] = {"name": names, "max_points": max_points}
        return self._call(SeriesList, "GET", f"/v1/runs/{_inert(run_id)}/metrics", params=params)

    def logs(self, run_id: str, **filters: str | int | None) -> LogList:
        """Lines, the oldest first: `service`, `level`, `after`, `limit`."""
        return self._call(LogList, "GET", f"/v1/runs/{_inert(run_id)}/logs", params=_given(filters))

    def checkpoints(self, run_id: str) -> CheckpointList:
        return self._call(CheckpointList, "GET", f"/v1/runs/{_inert(run_id)}/checkpoints")

    def artifacts(self, run_id: str, after: str | None = None, limit: int = 1000) -> ArtifactList:
        return self._call(
            ArtifactList, "GET", f"/v1/runs/{_inert(run_id)}/artifacts", params=_given({"after": after, "limit": limit})
        )

    def download(self, run_id: str, path: str, to: Path, tell: Tell = lambda _: None) -> Path:
        """Write one artifact to the file `to`. `tell` hears how many bytes have come, each time some do."""
        url = f"/v1/runs/{_inert(run_id)}/artifacts/{quote(path)}"
        try:
            with self.http.stream("GET", url, follow_redirects=True) as response:
                _raise_for_problem(response)
                with to.open("wb") as out:
                    for part in response.iter_bytes():
                        out.write(part)
                        tell(len(part))
        except httpx.TransportError as error:
            raise Unreachable(f"The download from {self.http.base_url} broke off: {error}") from error
        return to

    def reviews(self, run_id: str) -> list[ReviewView]:
        """Corrections that wait for a person's decision."""
        return TypeAdapter(list[ReviewView]).validate_python(self._request("GET", f"/v1/runs/{_inert(run_id)}/reviews").json())

    def decide(self, run_id: str, key: str, decisions: Sequence[Decision], others: str | None = None) -> RunView:
        """Answer a review; `others`, "approve" or "refuse", decides on what `decisions` do not name."""
        body = {"decisions": [decision.model_dump() for decision in decisions], "others": others}
        return self._call(RunView, "POST", f"/v1/runs/{_inert(run_id)}/reviews/{_inert(key)}", json=body)

    def fork(self, run_id: str, *, epoch: int | None = None, changes: dict[str, Any] | None = None) -> RunView:
        """A new run that goes on after an epoch of this one (left out: its last), with `changes` by section of its spec."""
        return self._call(RunView, "POST", f"/v1/runs/{_inert(run_id)}/fork", json={"epoch": epoch, "changes": changes or {}})

    def events(self, run_id: str, after: int = 0, limit: int = 100) -> EventList:
        return self._call(EventList, "GET", f"/v1/runs/{_inert(run_id)}/events", params={"after": after, "limit": limit})

    def ready(self) -> ReadyView:
        return self._call(ReadyView, "GET", "/readyz")

    def workers(self) -> list[WorkerView]:
        return TypeAdapter(list[WorkerView]).validate_python(self._request("GET", "/v1/system/workers").json())

    def resources(self) -> list[ResourceView]:
        """Machines that exist only for a run, and may still be there."""
        return TypeAdapter(list[ResourceView]).validate_python(self._request("GET", "/v1/resources").json())

    def retention(self, **limits: float | None) -> RetentionPlan:
        """What retention would remove now; `artifacts_days` and the like in place of the settings. Nothing is removed."""
        return self._call(RetentionPlan, "GET", "/v1/retention", params=_given(limits), timeout=300)  # it lists the store

    def upload(self, file: Path, name: str | None = None, tell: Tell = lambda _: None) -> DatasetView:
        """Store rows for `data.train`: a .csv file, or JSONL. `tell` hears how many bytes have gone, each time some do."""
        form = "text/csv" if file.suffix.lower() == ".csv" else "application/jsonl"
        named = re.sub(r"[^A-Za-z0-9_-]+", "-", name or file.stem)[:60] or "rows"
        headers = {"Content-Type": form, "Content-Length": str(file.stat().st_size)}
        with file.open("rb") as content:
            parts = _parts(content, tell)
            try:
                response = self.http.post("/v1/datasets", content=parts, params={"name": named}, headers=headers, timeout=600)
            except httpx.TransportError as error:
                raise Unreachable(f"The upload to {self.http.base_url} broke off: {error}") from error
        _raise_for_problem(response)
        return DatasetView.model_validate(response.json())

    def preview(self, uri: str, holds: Holds) -> Preview:
        """What a teacher worker finds at a place of data: source files, rows to train on, or prompts."""
        body = PreviewRequest(uri=uri, holds=holds).model_dump()
        try:
            response = self.http.post("/v1/previews", json=body, timeout=90)
        except httpx.TransportError as error:
            raise Unreachable(f"{self.http.base_url} does not answer: {error}") from error
        _raise_for_problem(response)
        return TypeAdapter[Preview](Preview).validate_python(response.json())

    def models(self) -> list[ModelView]:
        return self._call(ModelList, "GET", "/v1/models").data

    def presets(self) -> list[PresetView]:
        return self._call(PresetList, "GET", "/v1/presets").data

    def create_key(self, role: Role, label: str) -> KeyMade:
        """A new key; what opens is in this answer alone."""
        body = NewKey(role=role, label=label).model_dump()
        return self._call(KeyMade, "POST", "/v1/keys", json=body)

    def all_keys(self) -> list[KeyView]:
        return self._call(KeyList, "GET", "/v1/keys").data

    def revoke_key(self, key_id: str) -> None:
        self._request("DELETE", f"/v1/keys/{_inert(key_id)}")

    def follow(self, run_id: str, after: int = 0) -> Iterator[EventView]:
        """Every event of a run once, in order, live until the run is over; a lost connection is taken up again."""
        over, heard, losses = False, False, 0
        while not over:
            try:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
                with self.http.stream("GET", f"/v1/runs/{_inert(run_id)}/events", headers=headers, timeout=30) as response:
                    _raise_for_problem(response)
                    heard = True
                    for line in response.iter_lines():
                        if line.startswith("data:"):
                            event = EventView.model_validate_json(line[5:])
                            after, losses = event.seq, 0
                            yield event
                run = self.run(run_id)
                over = run.terminal and run.last_event <= after  # else the API was shut down
            except (httpx.TransportError, Unreachable, ApiError) as error:
                losses += 1
                if isinstance(error, ApiError) and error.problem.status not in AWAY:
                    raise
                if not heard and losses >= self.tries:
                    raise Unreachable(f"{self.http.base_url} does not answer: {error}") from error
                time.sleep(min(0.1 * 2**losses, 5))

    def complete(
        self, run_id: str, prompt: str | Sequence[Message], *, checkpoint: Checkpoint = "best", **options: Any
    ) -> Iterator[Waiting | Piece | CompletionView]:
        """Ask a student: what it waits for and what it writes, as it happens, and the whole answer last.

        `options` are those of CompletionRequest. Leaving off ends the generation. It is not tried again.
        """
        asked: dict[str, Any] = {"prompt": prompt} if isinstance(prompt, str) else {"messages": tuple(prompt)}
        request = CompletionRequest(run=run_id, checkpoint=checkpoint, stream=True, **asked, **options)
        body = request.model_dump(mode="json", exclude_none=True)
        try:
            with self.http.stream("POST", "/v1/completions", json=body, timeout=30) as response:
                _raise_for_problem(response)
                yield from _completion(response.iter_lines())
        except httpx.TransportError as error:
            raise Unreachable(f"The answer of {self.http.base_url} broke off: {error}") from error

    def wait(self, run_id: str, seconds: float | None = None) -> RunView:
        """The run once it is over. TimeoutError after `seconds`."""
        until = None if seconds is None else time.monotonic() + seconds
        while True:
            run = self.run(run_id)
            if run.terminal:
                return run
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"Run {run_id} is still {run.status} after {seconds:g} s")
            time.sleep(0.5)

    def _call(self, view: type[View], method: str, path: str, **options: Any) -> View:
        return view.model_validate(self._request(method, path, **options).json())

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Tried again while the API is away: every call here may be repeated without harm."""
        for attempt in range(self.tries):
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError as error:
                if attempt == self.tries - 1:
                    raise Unreachable(f"{self.http.base_url} does not answer: {error}") from error
            else:
                if response.status_code not in AWAY or attempt == self.tries - 1:
                    _raise_for_problem(response)
                    return response
                time.sleep(min(float(response.headers.get("Retry-After", 0)), 60))
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


def _completion(lines: Iterator[str]) -> Iterator[Waiting | Piece | CompletionView]:
    """What a stream of Server-Sent Events tells; its problem is raised."""
    kinds: dict[str, type[Waiting | Piece | CompletionView]] = {"waiting": Waiting, "piece": Piece, "end": CompletionView}
    kind = ""
    for line in lines:
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            data = line.removeprefix("data: ")
            if kind == "error":
                raise ApiError(Problem.model_validate_json(data))
            yield kinds[kind].model_validate_json(data)
    if kind != "end":
        raise httpx.RemoteProtocolError("it had no end")


def _parts(content: IO[bytes], tell: Tell) -> Iterator[bytes]:
    while part := content.read(PART_BYTES):
        yield part
        tell(len(part))


def _given(filters: Mapping[str, str | int | float | None]) -> dict[str, str | int | float]:
    return {name: value for name, value in filters.items() if value is not None}


def _raise_for_problem(response: httpx.Response) -> None:
    if response.is_success:
        return
    response.read()
    try:
        problem = Problem.model_validate(response.json())
    except (json.JSONDecodeError, ValueError):
        problem = Problem(
            title="Error", status=response.status_code, detail=response.text[:300] or response.reason_phrase, code="unknown"
        )
    raise ApiError(problem)
