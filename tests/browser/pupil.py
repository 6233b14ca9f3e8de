"""What the student of the browser's tests writes: the teacher's recorded answers, done worse in the early epochs."""

import json
import re
from dataclasses import dataclass

from tests.e2e.tiny import EXAMPLES

WORST, CARELESS, BARE, GOOD = range(4)


@dataclass(frozen=True)
class Asked:
    id: str
    prompt: str
    domain: str
    good: str


def prompts() -> list[Asked]:
    rows = [json.loads(line) for line in (EXAMPLES / "teacher.jsonl").read_text().splitlines()]
    return [Asked(row["prompt_id"], row["prompt"], row["prompt_id"].split("-")[0], row["answers"][0]) for row in rows]


def level(place: int, epoch: int) -> int:
    """How well a prompt is answered: a third of them badly at first, nearly all well in the third epoch."""
    return min(GOOD, epoch - 1 + place % 3)


def written(asked: Asked, quality: int) -> str:
    lines = asked.good.splitlines()
    if quality < GOOD:
        lines = [line for line in lines if not line.startswith(("/**", " *"))]
    if quality <= CARELESS:
        lines = [re.sub(r"\bu?int\d+_t\b", "int", line).replace("const ", "").replace("U;", ";") for line in lines]
        begin = next(place for place, line in enumerate(lines) if line.endswith("{"))
        lines[begin] = re.sub(r"\w+\(.*\)", "calc(int a, int b, int tmp)", lines[begin])
        lines[begin + 1 : begin + 1] = ["    char *buf = malloc(64);", "    strcpy(buf, name);", "    buf = gets(buf);"]
    if quality == WORST:
        last = max(place for place, line in enumerate(lines) if line.strip().startswith("return"))
        lines[last] = lines[last].rstrip(";")
        return "\n".join(["Here is the function you asked for.", "", *lines])
    return "\n".join(lines)
