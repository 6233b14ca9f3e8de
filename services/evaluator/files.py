"""Files scored without any server: source files, answers in Markdown or text, and JSONL of answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pydantic

from reflux.errors import Terminal
from reflux.records import Answer, Verdict
from services.evaluator.extract_code import Language
from services.evaluator.score import LONGEST_ANSWER, Attempt, Scorer, the_scorer

_LANGUAGES: dict[str, Language] = {".c": "c", ".h": "c", **dict.fromkeys((".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx"), "c++")}
_LONGEST_FILE = 512 << 20


@dataclass(frozen=True)
class Scored:
    """`name` says which text it is: the file, and for a row of JSONL its prompt and sample."""

    name: str
    verdict: Verdict


def score_file(
    path: Path,
    *,
    prompt: str = "",
    domain: str = "generic",
    scorer: Scorer | None = None,
    tell: Callable[[int], None] | None = None,
) -> list[Scored]:
    """Score one file, or every row of a `.jsonl` (rows are Answers, with their own prompts). Order is kept.

    Terminal(invalid_dataset) when the file can't be read as what its name says; the message has the number of the line.
    """
    scorer = scorer or the_scorer()
    if path.suffix == ".jsonl":
        answers = _answers(path)
        attempts = [Attempt(row.text, row.prompt, row.domain, row.prompt_id, row.sample) for row in answers]
        names = [f"{path}: {row.prompt_id}, sample {row.sample}" for row in answers]
    else:
        text = _read(path, LONGEST_ANSWER + 1)
        attempts, names = [Attempt(text, prompt, domain, language=_LANGUAGES.get(path.suffix))], [str(path)]
    return [Scored(name, verdict) for name, verdict in zip(names, scorer.score_all(attempts, tell), strict=True)]


def _answers(path: Path) -> list[Answer]:
    rows = list[Answer]()
    for number, line in enumerate(_read(path, _LONGEST_FILE).split("\n"), 1):
        if line.strip():
            try:
                rows.append(Answer.model_validate_json(line))
            except pydantic.ValidationError as error:
                detail = error.errors()[0]
                where = ".".join(map(str, detail["loc"])) or "row"
                hint = "Each line is an Answer: prompt_id, prompt, text, and if you like domain and sample."
                raise Terminal("invalid_dataset", f"{path}, line {number}: {where}: {detail['msg']}", hint) from error
    if not rows:
        raise Terminal("invalid_dataset", f"{path} has no rows", "Each line is an Answer: prompt_id, prompt and text.")
    return rows


def _read(path: Path, most: int) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(most)
    except OSError as error:
        raise Terminal("invalid_dataset", f"{path} can't be read: {error.strerror}", "Name files that exist.") from error
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")
