"""The few calls of MLflow's REST API 2.0 that tell it of a run. Each may be repeated.

Its own client would bring a dozen libraries for these. See mlflow.org/docs/latest/api_reference/rest-api.html.
"""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeVar

import httpx

T = TypeVar("T")
Status = Literal["SCHEDULED", "RUNNING", "FINISHED", "FAILED", "KILLED"]

METRICS_AT_ONCE, PAIRS_AT_ONCE = 1000, 100  # as many as the server takes
NAME, PARAM, TAG = 250, 500, 5000  # characters
RUN_TAG = "reflux.run_id"
NOT_FOUND = "RESOURCE_DOES_NOT_EXIST"


class Away(Exception):
    """No answer, or one that may be another in a while: nothing was wrong with what was sent."""


class Refused(Exception):
    """MLflow does not take what it was sent. `code` is its own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Point(NamedTuple):
    """MLflow keeps one of several that are the same in all of it."""

    name: str
    value: float
    at: datetime
    step: int


@dataclass
class Mlflow:
    http: httpx.Client
    experiment: str
    _experiment_id: str | None = field(default=None, init=False)

    def run(self, run_id: str, name: str, began: datetime) -> str:
        """MLflow's id of the run that carries this tag; it is made if there is none."""
        experiment = self._experiment_id = self._experiment_id or self._experiment()
        of_run = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{run_id}'", "max_results": 1}
        found = self._call("POST", "runs/search", json=of_run).get("runs")
        if not found:
            tags = [{"key": RUN_TAG, "value": run_id}]
            new = {"experiment_id": experiment, "run_name": name, "start_time": milliseconds(began), "tags": tags}
            found = [self._call("POST", "runs/create", json=new)["run"]]
        return str(found[0]["info"]["run_id"])

    def log(self, external_id: str, points: Sequence[Point]) -> None:
        metrics = [
            {"key": key(p.name), "value": _number(p.value), "timestamp": milliseconds(p.at), "step": p.step} for p in points
        ]
        for some in _together(metrics, METRICS_AT_ONCE):
            self._call("POST", "runs/log-batch", json={"run_id": external_id, "metrics": some})

    def describe(self, external_id: str, params: dict[str, str], tags: dict[str, str]) -> None:
        for kind, pairs in (("params", _pairs(params, PARAM)), ("tags", _pairs(tags, TAG))):
            for some in _together(pairs, PAIRS_AT_ONCE):
                self._call("POST", "runs/log-batch", json={"run_id": external_id, kind: some})

    def set_status(self, external_id: str, name: str, status: Status, ended: datetime | None) -> None:
        body = {"run_id": external_id, "status": status, "run_name": name}
        self._call("POST", "runs/update", json=body | ({"end_time": milliseconds(ended)} if ended else {}))

    def forget(self) -> None:
        """The server may be another one, or have lost its experiment."""
        self._experiment_id = None

    def _experiment(self) -> str:
        try:
            found = self._call("GET", "experiments/get-by-name", params={"experiment_name": self.experiment})
            return str(found["experiment"]["experiment_id"])
        except Refused as refused:
            if refused.code != NOT_FOUND:
                raise
        return str(self._call("POST", "experiments/create", json={"name": self.experiment})["experiment_id"])

    def _call(self, method: str, call: str, **content: Any) -> dict[str, Any]:
        try:
            response = self.http.request(method, f"api/2.0/mlflow/{call}", **content)
            told = response.json() if response.is_success or response.status_code < 500 else {}
        except httpx.HTTPError as error:
            raise Away(type(error).__name__) from error
        except ValueError as error:
            raise Away(f"{call}: {response.status_code}, and not in JSON") from error
        if response.is_success and isinstance(told, dict):
            return told
        if response.status_code >= 500 or response.status_code in (401, 403, 408, 429):
            raise Away(f"{call}: {response.status_code}")
        raise Refused(str(told.get("error_code", response.status_code)), str(told.get("message", ""))[:200])


def key(name: str) -> str:
    """As a name that MLflow takes: letters, digits, `_-. ` and `/` between parts of which none is empty or leads upwards."""
    parts = [re.sub(r"[^A-Za-z0-9_\-. ]", "_", part) for part in name[:NAME].split("/")]
    return "/".join(part for part in parts if part.strip(". ")) or "_"


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


def _pairs(texts: dict[str, str], most: int) -> list[dict[str, str]]:
    return [{"key": key(name), "value": text[:most]} for name, text in texts.items() if text]


def _together(things: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    return (things[start : start + most] for start in range(0, len(things), most))


def _number(value: float) -> float | str:
    """JSON has no words for what is no finite number; protobuf's JSON has these."""
    return value if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
