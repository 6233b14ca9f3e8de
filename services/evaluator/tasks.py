"""What the evaluator does for a run: score chunks of answers, judge the teacher's corrections, compare base and best."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from reflux import traces
from reflux.commands import Compare, Judge, Score
from reflux.errors import Terminal
from reflux.events import ChunkScored, CorrectionsJudged, Event, ModelsCompared
from reflux.records import Answer, Correction, Verdict
from reflux.spec import Rubric as RubricSection
from reflux.task import Task
from services.evaluator import compare as comparing
from services.evaluator.compiler import Compiler, Dialect, version
from services.evaluator.rubric import Rubric
from services.evaluator.sandbox import ADVICE
from services.evaluator.score import Attempt, Scorer, the_compiler, the_misra, the_scorer


def score(task: Task) -> ChunkScored:
    """Score one chunk of answers. An answer that there is not counts as 0 everywhere."""
    command = _command(task, Score)
    started = time.monotonic()
    scorer = scorer_of(task.spec.rubric)
    answers = list(task.artifacts.read_rows(command.chunk.path, Answer))
    if not answers:
        task.log(f"{command.chunk.path} holds no answers", "warning")
    verdicts = _score_answers(task, answers, scorer)
    path = f"{task.folder}/verdicts.jsonl"
    task.artifacts.write_rows(path, verdicts)
    return ChunkScored(
        key=command.key,
        seconds=time.monotonic() - started,
        warnings=_warnings(scorer, task),
        chunk=command.chunk.name,
        path=path,
        count=len(verdicts),
        poor=sum(verdict.overall < task.spec.refining.quality_threshold for verdict in verdicts),
        compiling=sum(verdict.compiles for verdict in verdicts),
        overall=sum(verdict.overall for verdict in verdicts),
        parts=(
            sum(verdict.syntax for verdict in verdicts),
            sum(verdict.protocol for verdict in verdicts),
            sum(verdict.safety for verdict in verdicts),
            sum(verdict.style for verdict in verdicts),
        ),
    )


def judge(task: Task) -> CorrectionsJudged:
    """Admit the corrections that compile at least as well as the student's answer, and score higher."""
    command = _command(task, Judge)
    started = time.monotonic()
    scorer = scorer_of(task.spec.rubric)
    corrections = list(task.artifacts.read_rows(command.corrections_path, Correction))
    answered = [correction for correction in corrections if not correction.answer.error]
    attempts = [Attempt(row.answer.text, row.prompt, row.domain, row.prompt_id, row.attempt.sample) for row in answered]
    verdicts = _scored(task, scorer, attempts, "corrections")
    judged = [_judged(row, None if row.answer.error else next(verdicts)) for row in corrections]
    path = f"{task.folder}/corrections.jsonl"
    task.artifacts.write_rows(path, judged)
    admitted = sum(bool(row.admitted) for row in judged)
    return CorrectionsJudged(
        key=command.key,
        seconds=time.monotonic() - started,
        warnings=_warnings(scorer, task),
        path=path,
        admitted=admitted,
        refused=len(judged) - admitted,
    )


def compare(task: Task) -> ModelsCompared:
    """Base against best on the test prompts."""
    command = _command(task, Compare)
    started = time.monotonic()
    base = [row for path in command.base_paths for row in task.artifacts.read_rows(path, Verdict)]
    best = [row for path in command.best_paths for row in task.artifacts.read_rows(path, Verdict)]
    task.check()
    comparison = comparing.compare(base, best, task.spec.seed)
    task.progress(comparison.prompts, comparison.prompts, "prompts compared")
    return ModelsCompared(key=command.key, seconds=time.monotonic() - started, comparison=comparison)


HANDLERS: dict[str, Callable[[Task], Event]] = {"score": score, "judge": judge, "compare": compare}


def capabilities() -> dict[str, Any]:
    """Versions ("" or null where there is none), and the sandbox's layers ("" where one holds, else why it does not)."""
    compiler = the_compiler()
    versions = {name: compiler.versions[name] for name in ("gcc", "g++")}
    return {**versions, "sandbox": compiler.sandbox.layers, "cppcheck": version("cppcheck") or None}


def checks() -> list[dict[str, str]]:
    """What this machine lacks, each with what to do; empty where all is well."""
    return _lacking(the_compiler(), misra=True)


def scorer_of(section: RubricSection) -> Scorer:
    """The scorer that a spec asks for. Terminal(invalid_spec) names what this worker can't give."""
    roots = [Path(root).resolve() for root in os.environ.get("REFLUX_INCLUDE_ROOTS", "").split(":") if root]
    for folder in section.include_dirs:
        path = Path(folder).resolve()
        if not any(path.is_relative_to(root) for root in roots):
            allowed = ":".join(map(str, roots)) or "nothing"
            raise Terminal(
                "invalid_spec",
                f"rubric.include_dirs: {folder} is not below a folder that the evaluators may show to the compiler ({allowed})",
                "Let the operator name its parent in REFLUX_INCLUDE_ROOTS of the evaluators.",
            )
        if not path.is_dir():
            raise Terminal("invalid_spec", f"rubric.include_dirs: there is no folder {folder} on this evaluator")
    folders = tuple(str(Path(folder).resolve()) for folder in section.include_dirs)
    dialect = Dialect(section.std_c, section.std_cxx, section.defines, folders, section.warnings)
    misra = section.misra and not the_misra().lacking
    return the_scorer(Rubric.of(section.overrides, section.words), dialect, misra)


Order = TypeVar("Order", Score, Judge, Compare)


def _command(task: Task, kind: type[Order]) -> Order:
    if not isinstance(task.command, kind):
        raise TypeError(f"{type(task.command).__name__} was handed to the handler of {kind.__name__}")
    return task.command


def _score_answers(task: Task, answers: list[Answer], scorer: Scorer) -> list[Verdict]:
    attempts = [Attempt(row.text, row.prompt, row.domain, row.prompt_id, row.sample) for row in answers]
    written = [attempt for attempt, row in zip(attempts, answers, strict=True) if not row.error]
    verdicts = _scored(task, scorer, written, "answers")
    return [
        scorer.zero(attempt, "no-answer", f"there is no answer: {row.error}") if row.error else next(verdicts)
        for attempt, row in zip(attempts, answers, strict=True)
    ]


def _scored(task: Task, scorer: Scorer, attempts: list[Attempt], unit: str) -> Iterator[Verdict]:
    with traces.span(f"score {unit}", task.traceparent, {f"reflux.{unit}": len(attempts)}) as span:
        verdicts = scorer.score_all(attempts, _tell(task, len(attempts), unit))
        span.note({"reflux.compiling": sum(verdict.compiles for verdict in verdicts)})
    return iter(verdicts)


def _judged(row: Correction, verdict: Verdict | None) -> Correction:
    if verdict is None:
        return row.model_copy(update={"admitted": False, "why": f"teacher did not answer: {row.answer.error}"})
    before = row.attempt_verdict
    if before.compiles and not verdict.compiles:
        admitted, why = False, "the student's answer compiles, the correction does not"
    elif verdict.syntax < before.syntax:
        admitted, why = False, f"compiles worse: syntax {verdict.syntax:g} after {before.syntax:g}"
    elif verdict.overall <= before.overall:
        admitted, why = False, f"scores no higher: {verdict.overall:.2f} after {before.overall:.2f}"
    else:
        admitted, why = True, f"scores higher: {verdict.overall:.2f} after {before.overall:.2f}"
    why = f"{row.why}; {why}" if row.why else why  # who has rewritten it
    return row.model_copy(update={"verdict": verdict, "admitted": admitted, "why": why})


def _tell(task: Task, total: int, unit: str) -> Callable[[int], None]:
    def tell(done: int) -> None:
        task.check()
        task.progress(done, total, f"{unit} scored")

    task.check()
    return tell


def _warnings(scorer: Scorer, task: Task) -> tuple[str, ...]:
    missed = [item for item in _lacking(scorer.compiler, misra=task.spec.rubric.misra) if not item["what"].startswith("no g++")]
    return tuple(f"{item['what']}; {item['do']}" for item in missed)


def _lacking(compiler: Compiler, misra: bool) -> list[dict[str, str]]:
    missing = [
        {"what": f"no {name}: {language} is judged by a heuristic", "do": f"apt-get install {name}"}
        for name, language in (("gcc", "C"), ("g++", "C++"))
        if not compiler.versions[name]
    ]
    for layer, why in compiler.sandbox.missing.items():
        missing.append({"what": f"the sandbox lacks {layer}: {why}", "do": ADVICE[layer]})
    if misra and the_misra().lacking:
        missing.append({"what": f"no MISRA rules: {the_misra().lacking} not installed", "do": "apt-get install cppcheck"})
    return missing
