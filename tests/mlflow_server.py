"""A stand-in for MLflow's tracking server: its REST calls, its limits and its errors, with the rows of its SQL store in memory.

`loses`: the answer of the call after so many others is not sent, though it was carried out. `refusing`: every call is answered
with this status.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAME = re.compile(r"[\w\-. /]+", re.ASCII)
PREFIX = "/api/2.0/mlflow/"


class Fault(Exception):
    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error_code": code, "message": message}


class MlflowServer(ThreadingHTTPServer):
    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Answering)
        self.loses: int | None = None
        self.refusing: int | None = None
        self.calls: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.empty()
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def empty(self) -> None:
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict[str, Any]] = {}

    def answer(self, call: str, body: dict[str, Any]) -> dict[str, Any]:
        match call:
            case "experiments/get-by-name":
                name = body["experiment_name"]
                if name not in self.experiments:
                    raise Fault("RESOURCE_DOES_NOT_EXIST", f"Could not find experiment with name '{name}'", 404)
                return {"experiment": {"experiment_id": self.experiments[name], "name": name}}
            case "experiments/create":
                if body["name"] in self.experiments:
                    raise Fault("RESOURCE_ALREADY_EXISTS", f"Experiment '{body['name']}' already exists.")
                return {"experiment_id": self.experiments.setdefault(body["name"], str(len(self.experiments) + 1))}
            case "runs/search":
                return self._search(body)
            case "runs/create":
                return self._create(body)
            case "runs/log-batch":
                return self._log(body)
            case "runs/update":
                run = self._run(body)
                run["info"] |= {name: body[name] for name in ("status", "end_time", "run_name") if name in body}
                return {"run_info": run["info"]}
        raise Fault("ENDPOINT_NOT_FOUND", call, 404)

    def _search(self, body: dict[str, Any]) -> dict[str, Any]:
        found = re.fullmatch(r"tags\.`([^`]+)` = '([^']*)'", body["filter"])
        assert found, body["filter"]
        ours = [
            run
            for run in self.runs.values()
            if run["info"]["experiment_id"] in body["experiment_ids"] and run["tags"].get(found[1]) == found[2]
        ]
        return {"runs": [{"info": run["info"]} for run in ours[: body["max_results"]]]} if ours else {}

    def _create(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["experiment_id"] not in self.experiments.values():
            raise Fault("RESOURCE_DOES_NOT_EXIST", f"No Experiment with id={body['experiment_id']} exists", 404)
        run_id = f"{len(self.runs) + 1:032x}"
        info = {"run_id": run_id, "run_name": body["run_name"], "experiment_id": body["experiment_id"], "status": "RUNNING"}
        tags = {tag["key"]: tag["value"] for tag in body["tags"]}
        self.runs[run_id] = {"info": info, "tags": tags, "params": {}, "metrics": set(), "told": 0}
        return {"run": {"info": info}}

    def _log(self, body: dict[str, Any]) -> dict[str, Any]:
        run = self._run(body)
        metrics, params, tags = (body.get(kind, []) for kind in ("metrics", "params", "tags"))
        if len(metrics) > 1000 or len(params) > 100 or len(tags) > 100:
            raise Fault(
                "INVALID_PARAMETER_VALUE", "A batch logging request can contain at most 1000 metrics, 100 params, 100 tags"
            )
        for pair in (*metrics, *params, *tags):
            if not NAME.fullmatch(pair["key"]) or len(pair["key"]) > 250:
                raise Fault("INVALID_PARAMETER_VALUE", f"Invalid name: {pair['key']}")
        for param in params:
            if run["params"].setdefault(param["key"], param["value"]) != param["value"]:
                raise Fault("INVALID_PARAMETER_VALUE", f"Changing param values is not allowed: {param['key']}")
        run["tags"] |= {tag["key"]: tag["value"] for tag in tags}
        run["metrics"] |= {(m["key"], float(m["value"]), int(m["timestamp"]), int(m["step"])) for m in metrics}
        run["told"] += len(metrics)
        return {}

    def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["run_id"] not in self.runs:
            raise Fault("RESOURCE_DOES_NOT_EXIST", f"Run with id={body['run_id']} not found", 404)
        return self.runs[body["run_id"]]

    def handle_error(self, *_: Any) -> None:
        pass


class Answering(BaseHTTPRequestHandler):
    server: MlflowServer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self._answer(address.path, {name: values[0] for name, values in parse_qs(address.query).items()})

    def do_POST(self) -> None:
        self._answer(self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _answer(self, path: str, body: dict[str, Any]) -> None:
        assert path.startswith(PREFIX), path
        call = path.removeprefix(PREFIX)
        self.server.calls.append(call)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        status, told = self.server.refusing or 200, {}
        if self.server.refusing is None:
            try:
                told = self.server.answer(call, body)
            except Fault as fault:
                status, told = fault.status, fault.body
        if self.server.loses is not None:
            self.server.loses -= 1
            if self.server.loses < 0:
                self.server.loses, self.close_connection = None, True
                return
        content = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        pass
