"""The OpenAPI document: FastAPI's, with examples and every error that a call can give. Run as a module, it prints it."""

import json
import sys
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute

from reflux.spec import RunSpec
from reflux.views import Problem
from services.api.problems import TITLES

OPEN = {"/healthz", "/readyz"}
PROBLEM = {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}
ALSO = {
    "runs_create": (409,),
    "runs_artifact": (410, 416),
    "runs_list_answers": (410,),
    "runs_fork": (410,),
    "datasets_upload": (415,),
    "completions_create": (404, 409, 410),
    "datasets_preview": (409,),
    "workers_claim_errand": (404,),
    "workers_claim_next": (410,),
}
OTHER_SUCCESS = {
    "runs_create": ("201", "200", "With `dry_run`, or where the `Idempotency-Key` had made the run before"),
    "runs_abort": ("202", "200", "It had been asked for before"),
    "runs_pause": ("202", "200", "It had been asked for before"),
    "runs_resume": ("202", "200", "It had been asked for before"),
}
NOTHING_TO_DO = {
    "workers_claim": "Nothing to do: the task is not there, not due, or somebody else's",
    "workers_claim_errand": "Nobody has asked anything",
    "workers_claim_next": "No task of the run has come in that time",
}
SPEC = {
    "name": "tsn-student",
    "data": {"sources": [{"uri": "s3://our-firmware/tsn/", "domain": "tsn"}]},
    "refining": {"max_epochs": 3},
    "metadata": {"team": "gptp"},
}
EXAMPLES = {
    "runs_create": SPEC,
    "runs_fork": {"epoch": 2, "changes": {"refining": {"max_epochs": 5}}},
    "datasets_preview": {"uri": "s3://our-firmware/tsn/", "holds": "sources"},
    "keys_create": {"role": "viewer", "label": "the team's dashboard"},
    "reviews_decide": {"decisions": [{"prompt_id": "p-1", "decision": "approve"}], "others": "refuse"},
    "completions_create": {
        "run": "20261125-110001-fed803",
        "checkpoint": "best",
        "prompt": "Write a C function that returns the priority of a VLAN tag.",
        "score": True,
    },
    "workers_register": {"name": "evaluator@host-1", "service": "evaluator", "incarnation": "5f0c", "capabilities": {}},
    "workers_claim": {"worker": "evaluator@host-1", "incarnation": "5f0c", "token": "9a1e"},
    "workers_beat": {"attempt": 1, "progress": {"done": 3, "total": 16, "note": "answers"}},
    "workers_complete": {"attempt": 1, "event": {"type": "preflight_passed", "key": "preflight"}},
    "workers_fail": {
        "attempt": 1,
        "failure": {"code": "s3_timeout", "message": "No answer from the store", "error_class": "retriable"},
    },
    "workers_stopped": {"attempt": 1, "handed_back": True},
    "workers_claim_errand": {"worker": "evaluator@host-1", "incarnation": "5f0c", "service": "evaluator", "seconds": 0},
    "workers_said": {"attempt": 1, "at": 0, "text": "static uint8_t"},
    "workers_end_errand": {
        "attempt": 1,
        "at": 14,
        "text": " x;",
        "result": {"finish_reason": "stop", "usage": {"prompt": 61, "answer": 9}},
    },
    "workers_fail_errand": {
        "attempt": 1,
        "failure": {"code": "prompt_too_long", "message": "The prompt is too long", "error_class": "terminal"},
    },
}


def operation_id(route: APIRoute) -> str:
    return f"{route.tags[0]}_{route.name}"


def document(app: FastAPI) -> dict[str, Any]:
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, summary=SUMMARY, routes=app.routes)
        schemas = made["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for model in (Problem, RunSpec):
            schemas[model.__name__] = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas.update(schemas[model.__name__].pop("$defs", {}))
        schemas["Problem"]["examples"] = [EXAMPLE]
        for path, operations in made["paths"].items():
            for operation in operations.values():
                _complete(path, operation)
        app.openapi_schema = made
    return app.openapi_schema


SUMMARY = "Distils a large teacher model into a small student that does one job well."
EXAMPLE = {
    "type": "about:blank",
    "title": "Malformed",
    "status": 422,
    "detail": "The spec is not valid: training.batchsize.",
    "code": "invalid_spec",
    "hint": "Correct what `errors` names.",
    "errors": [
        {"field": "training.batchsize", "message": "there is no such field", "hint": "Did you mean `training.batch_size`?"}
    ],
}


def _complete(path: str, operation: dict[str, Any]) -> None:
    name, responses = operation["operationId"], operation["responses"]
    if name in OTHER_SUCCESS:
        usual, other, told = OTHER_SUCCESS[name]
        responses[other] = {**responses[usual], "description": told}
    if name in NOTHING_TO_DO:
        responses["204"] = {"description": NOTHING_TO_DO[name]}
    for status in sorted(_problems(path, name, operation)):
        responses[str(status)] = {"description": TITLES[status], **PROBLEM}
    if name == "runs_create":
        operation["requestBody"]["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/RunSpec"}
    if name in EXAMPLES:
        operation["requestBody"]["content"]["application/json"]["example"] = EXAMPLES[name]


def _problems(path: str, name: str, operation: dict[str, Any]) -> set[int]:
    """The statuses of the errors that the call can give."""
    if path == "/healthz":
        return set()
    found = {503, *ALSO.get(name, ())}
    if path not in OPEN:
        found |= {401, 403, 429}
    if operation.get("parameters") or "requestBody" in operation:
        found |= {422}
    if "{" in path or any(parameter["name"] == "after" for parameter in operation.get("parameters", ())):
        found |= {404}
    if "requestBody" in operation:
        found |= {400, 413}
    if name.partition("_")[2] in ("delete", "abort", "pause", "resume", "fork", "decide", "revoke"):
        found |= {409}
    return found


if __name__ == "__main__":
    from services.api.app import make_app

    json.dump(make_app().openapi(), sys.stdout, indent=2)
    sys.stdout.write("\n")
