"""What is wrong with a document that a model of sections describes, told so that a person can put it right."""

import difflib
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails, PydanticCustomError

from reflux.records import Record

Model = type[BaseModel]


class FieldProblem(Record):
    """One thing that is wrong with a spec: where (dotted path), what, and what to do."""

    field: str
    message: str
    hint: str = ""


def wrong(field: str, message: str, hint: str) -> PydanticCustomError:
    """What a validator of a model raises, for `problem` to tell as it stands."""
    return PydanticCustomError("wrong", "{message}", {"field": field, "message": message, "hint": hint})


def problem(root: Model, detail: ErrorDetails) -> FieldProblem:
    """What Pydantic found wrong with a document that is to match `root`."""
    path = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "wrong":
            context = detail["ctx"]
            return FieldProblem(field=context["field"], message=context["message"], hint=context["hint"])
        case "extra_forbidden":
            return FieldProblem(field=path, message="there is no such field", hint=_did_you_mean(root, detail["loc"]))
        case "missing":
            return FieldProblem(field=path, message="this field is needed", hint=f"Add `{path}`.")
    message = detail["msg"][0].lower() + detail["msg"][1:]
    return FieldProblem(field=path, message=f"{message}, got {detail['input']!r:.80}", hint=_described(root, detail["loc"]))


def _did_you_mean(root: Model, path: tuple[int | str, ...]) -> str:
    """The nearest field of the same section, or one of that name elsewhere."""
    *section, name = (str(part) for part in path)
    fields, _ = _lookup(root, path[:-1])
    elsewhere = [field for field in _all_fields(root) if field.split(".")[-1] == name]
    near = difflib.get_close_matches(name, fields, n=1)
    far = difflib.get_close_matches(name, {field.split(".")[-1]: field for field in _all_fields(root)}, n=1, cutoff=0.8)
    meant = elsewhere or [".".join((*section, field)) for field in near]
    meant = meant or [field for field in _all_fields(root) if field.split(".")[-1] in far]
    if meant:
        return f"Did you mean {' or '.join(f'`{field}`' for field in meant)}?"
    return f"One of: {', '.join(fields)}." if fields else ""


def _described(root: Model, path: tuple[int | str, ...]) -> str:
    fields, field = _lookup(root, path)
    if field is None:
        return f"One of: {', '.join(fields)}." if fields else "Correct the value."
    if _section(field):
        return f"A mapping with any of: {', '.join(fields)}."
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    shown = "" if default in (None, (), {}) else f" The default is {default}."
    return f"{field.description or 'Correct the value'}.{shown}"


def _lookup(root: Model, path: tuple[int | str, ...]) -> tuple[dict[str, Any], Any]:
    """The fields of the section at `path`, and the field that the path ends in; none where no field is."""
    fields: dict[str, Any] = dict(root.model_fields)
    field = None
    for part in path:
        if not isinstance(part, int):
            field = fields.get(part)
            section = _section(field) if field else None
            fields = dict(section.model_fields) if section else {}
    return fields, field


def _section(field: Any) -> Model | None:
    """The model that a field, or each item of it, must match."""
    kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _all_fields(root: Model) -> list[str]:
    top = [(name, _section(field)) for name, field in root.model_fields.items()]
    return [name for name, _ in top] + [f"{name}.{inner}" for name, section in top if section for inner in section.model_fields]
