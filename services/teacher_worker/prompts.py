"""Prompts for the student: out of a file, or out of the functions' own instructions; practice, dev and test kept apart."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from numpy.random import RandomState
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from reflux.artifacts import Artifacts
from reflux.errors import Terminal
from reflux.records import Prompt, PromptSet, digest
from reflux.spec import RunSpec
from services.teacher_worker import ingest
from services.teacher_worker.families import Families, tokens

SETS: tuple[PromptSet, ...] = ("practice", "dev", "test")
USUAL_PLACE = "data/eval/eval_prompts.jsonl"  # below the first source, where the spec names no file

IDENTIFIER = re.compile(r"\b[A-Za-z_]\w*(?:_|[a-z][A-Z])\w+\b")


class Line(BaseModel):
    """A prompt as users write it: only the text is needed (`prompt` is another name for it)."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field("", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    text: str = Field(min_length=1)
    domain: str = Field("generic", pattern=r"^[a-z0-9_-]{1,40}$")
    set: PromptSet | None = None
    family: str = ""

    @model_validator(mode="before")
    @classmethod
    def _prompt_is_text(cls, data: object) -> object:
        if isinstance(data, dict) and "prompt" in data and "text" not in data:
            return {("text" if key == "prompt" else key): value for key, value in data.items()}
        return data


def from_file(spec: RunSpec) -> list[Prompt] | None:
    """The prompts of `prompts.uri`, or of the usual place below the first source; None where there is no file."""
    uri = spec.prompts.uri or _at_the_usual_place(spec)
    if uri is None:
        return None
    lines = _with_families(read(uri))
    wanted = wanted_numbers(spec)
    chosen = assigned(lines, wanted, spec.seed)
    return [prompt for name in SETS for prompt in [p for p in chosen if p.set == name][: wanted[name]]]


def read(uri: str) -> list[Line]:
    """Every line of the file, checked. Terminal("invalid_dataset") names the first line that is wrong."""
    found: list[Line] = []
    for number, line in lines(uri):
        if isinstance(line, str):
            hint = "Each line is a JSON object with `text`, and perhaps `id`, `domain`, `set` and `family`."
            raise Terminal("invalid_dataset", f"{uri}, line {number}: {line}", hint)
        found.append(line)
    return found


def lines(uri: str) -> Iterator[tuple[int, Line | str]]:
    """Each prompt of the file, or what is wrong with its line, as it is read. Terminal("empty_dataset") where there is none."""
    numbers: dict[str, int] = {}
    number = 0
    try:
        for number, raw in ingest.read_lines(uri):
            line = _checked(raw)
            if isinstance(line, Line):
                line.id = line.id or f"p-{digest(line.text)}"
                first = numbers.setdefault(line.id, number)
                if first != number:
                    line = f"the id {line.id} stands in line {first} already"
            yield number, line
    except FileNotFoundError as error:
        raise Terminal("empty_dataset", f"There is no prompts file at {uri}", "Correct prompts.uri.") from error
    if not number:
        raise Terminal("empty_dataset", f"{uri} holds no prompts", "Put one JSON object a line there, each with `text`.")


def assigned(lines: Sequence[Line], wanted: dict[PromptSet, int], seed: int) -> list[Prompt]:
    """Give each line without a set the one that lacks most, whole families at a time, in seeded order.

    With fewer prompts than wanted the sets shrink alike. A line joins a set that its family is in already.
    """
    share = min(1.0, len(lines) / max(1, sum(wanted.values())))
    room = {name: wanted[name] * share - sum(line.set == name for line in lines) for name in SETS}
    taken: dict[str, PromptSet] = {line.family: line.set for line in reversed(lines) if line.set}
    open_families: dict[str, int] = defaultdict(int)
    for line in lines:
        if line.set is None:
            open_families[line.family] += 1
    names = list(open_families)
    for i in RandomState(seed).permutation(len(names)):
        family = names[i]
        name = taken.setdefault(family, max(SETS, key=lambda s: room[s]))
        room[name] -= open_families[family]
    order = RandomState(seed).permutation(len(lines))
    rank = {int(line): place for place, line in enumerate(order)}
    numbered = sorted(enumerate(lines), key=lambda pair: (pair[1].set is None, rank[pair[0]] if pair[1].set is None else pair[0]))
    kept: dict[PromptSet, list[int]] = defaultdict(list)
    for i, line in numbered:
        name = line.set or taken[line.family]
        if len(kept[name]) < wanted[name]:
            kept[name].append(i)
    return [
        Prompt(id=lines[i].id, text=lines[i].text, domain=lines[i].domain, set=name, family=lines[i].family)
        for name in SETS
        for i in sorted(kept[name])
    ]


def wanted_numbers(spec: RunSpec) -> dict[PromptSet, int]:
    return {"practice": spec.prompts.practice, "dev": spec.prompts.dev, "test": spec.prompts.test}


def names_asked_for(prompts: Iterable[Prompt]) -> frozenset[str]:
    """The identifiers in the dev and test prompts: functions of these names must not be trained on."""
    return frozenset(name for prompt in prompts if prompt.set != "practice" for name in IDENTIFIER.findall(prompt.text))


def shared_families(prompts: Iterable[Prompt]) -> list[str]:
    """Families that their author put into more than one set."""
    sets: dict[str, set[str]] = defaultdict(set)
    for prompt in prompts:
        sets[prompt.family].add(prompt.set)
    return sorted(family for family, names in sets.items() if len(names) > 1)


def _checked(raw: bytes) -> Line | str:
    try:
        return Line.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{where}: {first['msg']}" if where else first["msg"]


def _at_the_usual_place(spec: RunSpec) -> str | None:
    if not spec.data.sources:
        return None
    first = spec.data.sources[0].uri
    store: Artifacts | None = ingest.open_source(first)
    return f"{first.rstrip('/')}/{USUAL_PLACE}" if store and store.exists(USUAL_PLACE) else None


def _with_families(lines: list[Line]) -> list[Line]:
    """Give near-duplicates among the lines that name no family a common one."""
    unnamed = [line for line in lines if not line.family]
    with TemporaryDirectory() as folder, Families(Path(folder), 0.85) as families:
        for line in unnamed:
            families.add(tokens(line.text))
        firsts = families.firsts()
    for line, first in zip(unnamed, firsts, strict=True):
        line.family = f"f-{digest(unnamed[int(first)].text)}"
    return lines


__all__ = ["SETS", "assigned", "from_file", "lines", "names_asked_for", "read", "shared_families", "wanted_numbers"]
