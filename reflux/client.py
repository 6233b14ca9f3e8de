"""The Python client: typed, sync. Reads are tried again; a create is safe to repeat, as it carries an Idempotency-Key.

with Client(url, key) as reflux:
    run = reflux.create(spec)
    run = reflux.wait(run.id)
"""

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
from pydantic import BaseModel, TypeAdapter

from reflux.views import Decision, DryRun, EventList, EventView, Problem, ReviewView, RunList, RunView, WorkerView

View = TypeVar("View", bound=BaseModel)

TRIES = 6


class ApiError(Exception):
    """The API's refusal, as it gave it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


class Unreachable(Exception):
    """No answer from the API after several tries."""


class Client:
    def __init__(self, url: str, key: str) -> None:
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)

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
        return self._call(RunView, "GET", f"/v1/runs/{run_id}")

    def runs(self, **filters: str | int | None) -> RunList:
        return self._call(RunList, "GET", "/v1/runs", params={k: v for k, v in filters.items() if v is not None})

    def abort(self, run_id: str, *, discard: bool = False) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/abort", params={"discard": discard})

    def pause(self, run_id: str) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/pause")

    def resume(self, run_id: str) -> RunView:
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/resume")

    def reviews(self, run_id: str) -> list[ReviewView]:
        """Corrections that wait for a person's decision."""
        return TypeAdapter(list[ReviewView]).validate_python(self._request("GET", f"/v1/runs/{run_id}/reviews").json())

    def decide(self, run_id: str, key: str, decisions: Sequence[Decision], others: str | None = None) -> RunView:
        """Answer a review; `others`, "approve" or "refuse", decides on what `decisions` do not name."""
        body = {"decisions": [decision.model_dump() for decision in decisions], "others": others}
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/reviews/{key}", json=body)

    def fork(self, run_id: str, *, epoch: int | None = None, changes: dict[str, Any] | None = None) -> RunView:
        """A new run that goes on after an epoch of this one (left out: its last), with `changes` by section of its spec."""
        return self._call(RunView, "POST", f"/v1/runs/{run_id}/fork", json={"epoch": epoch, "changes": changes or {}})

    def events(self, run_id: str, after: int = 0, limit: int = 100) -> EventList:
        return self._call(EventList, "GET", f"/v1/runs/{run_id}/events", params={"after": after, "limit": limit})

    def workers(self) -> list[WorkerView]:
        return TypeAdapter(list[WorkerView]).validate_python(self._request("GET", "/v1/system/workers").json())

    def follow(self, run_id: str, after: int = 0) -> Iterator[EventView]:
        """Every event of a run once, in order, live until the run is over; a lost connection is taken up again."""
        over = False
        while not over:
            try:
                headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
                with self.http.stream("GET", f"/v1/runs/{run_id}/events", headers=headers, timeout=30) as response:
                    _raise_for_problem(response)
                    for line in response.iter_lines():
                        if line.startswith("data:"):
                            event = EventView.model_validate_json(line[5:])
                            after = event.seq
                            yield event
                over = self.run(run_id).last_event <= after
            except httpx.TransportError:
                time.sleep(1)

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
        for attempt in range(TRIES):
            try:
                response = self.http.request(method, path, **options)
            except httpx.TransportError as error:
                if attempt == TRIES - 1:
                    raise Unreachable(f"{self.http.base_url} does not answer: {error}") from error
            else:
                if response.status_code not in (502, 503, 504) or attempt == TRIES - 1:
                    _raise_for_problem(response)
                    return response
            time.sleep(0.2 * 2**attempt)
        raise AssertionError("unreachable")


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
