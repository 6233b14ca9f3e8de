"""A run's spec as a form: each field of `reflux/spec.py` an input, with its own description, default and limits as help.

The form holds a plain mapping of what was given, and nothing else: what is left out keeps its default.
"""

import html
import json
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from nicegui import ui
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from reflux.spec import FieldProblem, RunSpec
from services.api.dashboard import shell

NUMBERS = (int, float)
WORDS = {
    "uri": "URI",
    "usd": "USD",
    "gb": "GB",
    "r": "Rank",
    "lr": "learning rate",
    "std": "standard",
    "cxx": "C++",
    "nf4": "NF4",
}


def section_fields(name: str) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of a section by path, as far as one input can hold them."""
    model = RunSpec.model_fields[name].annotation
    assert isinstance(model, type)
    assert issubclass(model, BaseModel)
    for inner, info in model.model_fields.items():
        if _kind(info) != "other":
            yield f"{name}.{inner}", info


def info_of(path: str) -> FieldInfo:
    head, _, inner = path.partition(".")
    found = RunSpec.model_fields[head]
    return dict(section_fields(head))[path] if inner else found


@dataclass
class Entry:
    """One input, and where its error is told."""

    box: ui.element
    error: ui.html


@dataclass
class Form:
    """`changed` is called whenever the mapping has changed."""

    changed: Callable[[], object]
    given: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)

    def get(self, path: str) -> Any:
        """What was given; None where the default holds."""
        found: Any = self.given
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        return found

    def put(self, path: str, value: Any) -> None:
        """Give a field its value; None: its default. A section that is empty goes."""
        head, _, inner = path.partition(".")
        if not inner:
            section, name = self.given, head
        else:
            section, name = self.given.setdefault(head, {}), inner
        if value is None:
            section.pop(name, None)
        else:
            section[name] = value
        if inner and not section:
            self.given.pop(head, None)
        self.touched.add(path)
        self.changed()

    def mark(self, problems: list[FieldProblem], *, untouched: bool) -> list[FieldProblem]:
        """Mark each wrong field where it is; the problems that have no input here. Untouched ones only if asked."""
        by_path = {problem.field: problem for problem in problems}
        for path, entry in self.entries.items():
            wrong = next((p for at, p in by_path.items() if at == path or at.startswith(f"{path}.")), None)
            shown = wrong if wrong and (untouched or path in self.touched) else None
            entry.error.set_content(html.escape(f"{shown.message[0].upper()}{shown.message[1:]}. {shown.hint}") if shown else "")
            entry.box.props["aria-invalid"] = "true" if shown else "false"
            entry.box.update()
        return [problem for problem in problems if self.place_of(problem.field) is None]

    def place_of(self, path: str) -> str | None:
        """The id of the input that a problem belongs to."""
        found = next((at for at in self.entries if path == at or path.startswith(f"{at}.")), None)
        return f"f-{found.replace('.', '-')}" if found else None

    def draw(self, path: str, label: str = "", **look: Any) -> Entry:
        """An input with its label, help and error. `look` goes to the input itself."""
        info = info_of(path)
        made_id = f"f-{path.replace('.', '-')}"
        with ui.element("div").classes("field"):
            name = shell.text(label or title(path), "label")
            name.props["for"] = made_id
            box = _box(info, _written(self.get(path), info))
            box.props["id"] = made_id
            box.props["aria-describedby"] = f"{made_id}-error {made_id}-help"
            for prop, value in look.items():
                box.props[prop] = value
            error = shell.text("", "p", "problem small").props(f"id={made_id}-error role=alert")
            shell.text(told(info), "p", "help").props(f"id={made_id}-help")
        entry = self.entries[path] = Entry(box, error)
        box.on("change", lambda event: self.put(path, _read(event.args, info)), js_handler=_CHANGED)
        return entry


_CHANGED = "(e) => emit(e.target.type === 'checkbox' ? e.target.checked : e.target.value)"


def put_value(box: ui.element, value: str | bool) -> None:
    """Show a value in an input that somebody may have typed into."""
    name = "checked" if isinstance(value, bool) else "value"
    made_id = json.dumps(box.props["id"])
    box.client.run_javascript(f"document.getElementById({made_id}).{name} = {json.dumps(value)}")


def title(path: str) -> str:
    """`training.learning_rate`: Learning rate."""
    said = " ".join(WORDS.get(part, part) for part in path.rsplit(".", maxsplit=1)[-1].split("_"))
    return said[0].upper() + said[1:]


def told(info: FieldInfo) -> str:
    """What a field's description says, what it may be, and what it is when it is left out."""
    said = [f"{info.description.rstrip('.')}."] if info.description else []
    kind = _kind(info)
    if kind == "number":
        said.append(_limits(info))
    if kind == "list":
        said.append("Several, with commas between them.")
    default = _default(info)
    if default not in ("", None) and kind != "bool":
        said.append(f"Left out: {default if len(default) < 60 else f'{default[:57]}…'}.")
    return " ".join(part for part in said if part)


def _box(info: FieldInfo, value: str | bool) -> ui.element:
    kind = _kind(info)
    if kind == "bool":
        box = ui.element("input").props("type=checkbox")
        box.props["checked"] = value
        return box
    if kind == "choice":
        with ui.element("select") as box:
            for choice in ("", *(str(choice) for choice in _choices(info))):
                option = shell.text(choice or f"as usual ({_default(info)})", "option")
                option.props["value"] = choice
                option.props["selected"] = choice == value
        return box
    box = ui.element("input").props("type=text autocomplete=off spellcheck=false")
    box.props["^value"] = value
    box.props["placeholder"] = _default(info)
    if kind == "number":
        box.props["inputmode"] = "decimal"
    return box


def _kind(info: FieldInfo) -> str:
    of = _plain(info.annotation)
    if of is bool:
        return "bool"
    if get_origin(of) is Literal:
        return "choice"
    if of in NUMBERS:
        return "number"
    if of in (str, timedelta):
        return "text"
    if get_origin(of) is tuple and _plain(get_args(of)[0]) is str:
        return "list"
    return "other"


def _plain(annotation: Any) -> Any:
    """Without None and without its constraints."""
    if get_origin(annotation) in (Union, types.UnionType):
        annotation = next(part for part in get_args(annotation) if part is not type(None))
    while get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    return annotation


def _choices(info: FieldInfo) -> tuple[Any, ...]:
    return get_args(_plain(info.annotation))


def _limits(info: FieldInfo) -> str:
    found = list(info.metadata)
    for part in get_args(info.annotation):
        found += getattr(part, "__metadata__", ())
    found += [limit for inner in found if isinstance(inner, FieldInfo) for limit in inner.metadata]
    told = [f"more than {limit.gt:g}" for limit in found if isinstance(limit, Gt)]
    told += [f"{limit.ge:g} or more" for limit in found if isinstance(limit, Ge)]
    told += [f"{limit.le:g} at most" for limit in found if isinstance(limit, Le)]
    whole = "a whole number" if _plain(info.annotation) is int else "a number"
    return f"{whole[0].upper()}{whole[1:]}{', ' if told else ''}{', '.join(told)}."


def _default(info: FieldInfo) -> str:
    default = info.get_default(call_default_factory=True)
    return "" if default is None or isinstance(default, BaseModel) else str(_written(default, info))


def _written(value: Any, info: FieldInfo) -> str | bool:
    if _kind(info) == "bool":
        return bool(info.default if value is None else value)
    if value is None:
        return ""
    if isinstance(value, timedelta):
        return str(TypeAdapter(timedelta).dump_python(value, mode="json"))
    if isinstance(value, list | tuple):
        return ", ".join(str(part) for part in value)
    return str(value)


def _read(value: Any, info: FieldInfo) -> Any:
    """What the spec is given; what is no number is given as it stands, so that the check names it."""
    if isinstance(value, bool):
        return None if value == info.default else value
    value = str(value).strip()
    if not value:
        return None
    match _kind(info):
        case "list":
            return [part.strip() for part in value.split(",") if part.strip()]
        case "number":
            for number in NUMBERS:
                try:
                    return number(value)
                except ValueError:
                    continue
    return value
