"""What a run made, in a form that two runs can be compared in."""

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from reflux.artifacts import Artifacts, run_folder
from reflux.views import RunView

Sample = tuple[Any, ...]

# kind of sample: the files that hold them, and what of a row makes the sample; the first part of it is its key
FILES: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "train": (r"tasks/prepare/attempt-\d+/train\.jsonl", ("id",), ()),
    "prompts": (r"tasks/prepare/attempt-\d+/prompts\.jsonl", ("id", "set"), ("text",)),
    "taught": (r"tasks/teach-\d+/attempt-\d+/taught\.jsonl", ("prompt_id",), ("text",)),
    "corrections": (r"tasks/judge-[\d-]+/attempt-\d+/corrections\.jsonl", ("prompt_id",), ("answer.text", "admitted")),
    "answers": (r"pieces/generate-[^/]+/[^/]+\.jsonl", ("prompt_id", "sample"), ("text",)),
    "verdicts": (r"tasks/score-[^/]+/attempt-\d+/verdicts\.jsonl", ("prompt_id", "sample"), ("overall",)),
}


@dataclass(frozen=True)
class Samples:
    """Each sample by its key: the kind, the command that made it, and what names it within that. Texts and scores beside."""

    found: tuple[tuple[Sample, Sample], ...]

    @classmethod
    def of(cls, store: Artifacts, run: RunView) -> "Samples":
        return cls(tuple(sorted(_read(store, run.id), key=str)))

    @property
    def keys(self) -> Counter[Sample]:
        return Counter(key for key, _ in self.found)

    def lost(self, twin: "Samples") -> int:
        return sum((twin.keys - self.keys).values())

    def doubled(self, twin: "Samples") -> int:
        return sum((self.keys - twin.keys).values())

    def count(self, kind: str) -> int:
        return sum(key[0] == kind for key, _ in self.found)


def _read(store: Artifacts, run_id: str) -> Iterator[tuple[Sample, Sample]]:
    folder = run_folder(run_id)
    for path in store.paths(folder):
        within = path.removeprefix(f"{folder}/")
        for kind, (pattern, names, contents) in FILES.items():
            if re.fullmatch(pattern, within):
                command = within.split("/")[1]
                for line in store.get(path).decode().split("\n"):
                    if line.strip():
                        row = json.loads(line)
                        yield (kind, command, *_picked(row, names)), _picked(row, contents)


def _picked(row: dict[str, Any], names: tuple[str, ...]) -> Sample:
    values = []
    for name in names:
        value: Any = row
        for part in name.split("."):
            value = value[part]
        values.append(value)
    return tuple(values)
