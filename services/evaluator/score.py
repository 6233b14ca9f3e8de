"""From one answer to one verdict, and from many to many."""

import functools
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reflux.records import Verdict
from services.evaluator import gaming, protocol, safety, style, syntax
from services.evaluator.compiler import Compiler, Dialect
from services.evaluator.extract_code import Extracted, Language, extract
from services.evaluator.misra import Misra
from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet
from services.evaluator.source import Source, only_lines, skeleton
from services.evaluator.tree import Tree, parse

LONGEST = 100_000
LONGEST_ANSWER = 4 * LONGEST
SHOWN = 20_000
KEPT = 20_000


@dataclass(frozen=True)
class Attempt:
    """A text to be scored. `prompt` and its `domain` decide which words are looked for. With a `language` all of it is code."""

    text: str
    prompt: str = ""
    domain: str = "generic"
    prompt_id: str = ""
    sample: int = 0
    language: Language | None = None


class Scorer:
    """One rubric, one compiler, optionally MISRA; the latest KEPT verdicts are remembered by all that they depend on."""

    def __init__(self, rubric: Rubric | None = None, compiler: Compiler | None = None, misra: Misra | None = None) -> None:
        self.rubric = rubric or Rubric()
        self.compiler = compiler or the_compiler()
        self.misra = misra
        self.hits = 0
        self._known: OrderedDict[bytes, Verdict] = OrderedDict()
        self._lock = threading.Lock()

    def score(self, attempt: Attempt) -> Verdict:
        """Score one text. Any text: what can't be judged scores 0 and says why."""
        key = self._key(attempt)
        with self._lock:
            verdict = self._known.get(key)
            if verdict:
                self.hits += 1
                self._known.move_to_end(key)
        if not verdict:
            verdict = _scored(attempt, self.rubric, self.compiler, self.misra)
            if not any(line.rule == "broke-off" for line in verdict.evidence):  # that may have been the machine's load
                self._remember(key, verdict)
        return verdict.model_copy(update={"prompt_id": attempt.prompt_id, "sample": attempt.sample})

    def score_all(self, attempts: Sequence[Attempt], tell: Callable[[int], None] | None = None) -> list[Verdict]:
        """Score many texts side by side, equal ones once. `tell` hears how many are done, and may raise to end it."""
        first = {self._key(attempt): attempt for attempt in reversed(attempts)}
        verdicts = dict[bytes, Verdict]()
        with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
            futures = {key: pool.submit(self.score, attempt) for key, attempt in reversed(first.items())}
            try:
                for done, (key, future) in enumerate(futures.items(), 1):
                    verdicts[key] = future.result()
                    if tell:
                        tell(done)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return [
            verdicts[self._key(row)].model_copy(update={"prompt_id": row.prompt_id, "sample": row.sample}) for row in attempts
        ]

    def zero(self, attempt: Attempt, rule: str, why: str) -> Verdict:
        """The verdict on an answer that there is not."""
        return _worthless(attempt, Extracted("", "c"), self.rubric, rule, why)

    def _key(self, attempt: Attempt) -> bytes:
        parts = (attempt.text, attempt.prompt, attempt.domain, attempt.language or "")
        return hashlib.sha256("\0".join(f"{len(part)}:{part}" for part in parts).encode(errors="replace")).digest()

    def _remember(self, key: bytes, verdict: Verdict) -> None:
        with self._lock:
            self._known[key] = verdict
            if len(self._known) > KEPT:
                self._known.popitem(last=False)


def the_scorer(rubric: Rubric | None = None, dialect: Dialect | None = None, misra: bool = False) -> Scorer:
    """The process's scorer for these settings: its jails stay, and its verdicts are remembered."""
    rubric, dialect = rubric or Rubric(), dialect or Dialect()
    with _lock:
        return _scorer(rubric.model_dump_json(), dialect, dialect.fingerprint(), misra)


def the_compiler(dialect: Dialect | None = None) -> Compiler:
    dialect = dialect or Dialect()
    with _lock:
        return _compiler(dialect, dialect.fingerprint())


_lock = threading.RLock()


@functools.cache
def _scorer(rubric: str, dialect: Dialect, fingerprint: str, misra: bool) -> Scorer:
    return Scorer(Rubric.model_validate_json(rubric), _compiler(dialect, fingerprint), the_misra() if misra else None)


@functools.cache
def _compiler(dialect: Dialect, fingerprint: str) -> Compiler:  # noqa: ARG001 a changed header is another compiler
    return Compiler(dialect)


@functools.cache
def the_misra() -> Misra:
    return Misra()


def _scored(attempt: Attempt, rubric: Rubric, compiler: Compiler, misra: Misra | None) -> Verdict:
    code = extract(attempt.text[:LONGEST_ANSWER], attempt.language)
    if len(code.code) > LONGEST:
        why = f"more than {LONGEST} characters of code: no more are looked at"
        return _worthless(attempt, code, rubric, "too-long", why)
    source = compiler.prepare(code.code, code.language)
    if source.empty:
        why = "nothing but comments" if code.code.strip() else "no C or C++ code in the answer"
        return _worthless(attempt, code, rubric, "nothing-to-compile", why)
    live = source.text
    if source.conditional and compiler.knows(code.language):
        lines = compiler.live_lines(source, code.language)
        live = live if lines is None else only_lines(source.text, lines)
        if compiler.prepare(live, code.language).empty:
            return _worthless(attempt, code, rubric, "nothing-to-compile", "conditionals leave nothing of the code in")
    return _judged(attempt, code, source, live, rubric, compiler, misra)


def _judged(
    attempt: Attempt, code: Extracted, source: Source, live: str, rubric: Rubric, compiler: Compiler, misra: Misra | None
) -> Verdict:
    tree = parse(live, code.language)
    domain = protocol.domain_of(attempt.prompt, attempt.domain, rubric.words)
    syntax_sheet, compiles, metrics = _syntax(source, live, code, rubric, compiler)
    sheets = {
        "syntax": syntax_sheet,
        "protocol": protocol.score(tree, domain, rubric),
        "safety": safety.score(tree, rubric),
        "style": style.score(tree, live, rubric),
    }
    metrics |= _metrics(tree, live)
    if misra and code.language == "c":
        metrics |= safety.add_misra(sheets["safety"], *misra.check(source.text), metrics["lines"], rubric)
    scores = {part: sheet.score() for part, sheet in sheets.items()}
    whole = _overall(scores, rubric)
    overall = Sheet("overall")
    for rule, message, line in gaming.tricks(tree, source, attempt.prompt, live, rubric.words.get(domain, ())):
        overall.add(rule, message, min(0.0, rubric.gaming_cap - whole - overall.total), line)
    if code.cut:
        overall.add("cut", "the code block was not closed: the answer was cut off")
    return Verdict(
        prompt_id=attempt.prompt_id,
        sample=attempt.sample,
        overall=round(whole + overall.total, 6),
        **scores,
        compiles=compiles,
        code=code.code[:SHOWN],
        language=code.language,
        heuristic=not compiler.knows(code.language),
        rubric=rubric.version,
        evidence=tuple(line for sheet in (*sheets.values(), overall) for line in sheet.lines()),
        metrics=metrics,
    )


def _syntax(
    source: Source, live: str, code: Extracted, rubric: Rubric, compiler: Compiler
) -> tuple[Sheet, bool, dict[str, float]]:
    """The sheet, whether it compiles, and what was counted."""
    if not compiler.knows(code.language):
        sheet = syntax.heuristic(skeleton(live, code.language), rubric)
        return sheet, sheet.total >= rubric.heuristic_base, {}
    report = compiler.check(source, code.language)
    sheet = syntax.from_report(report, rubric)
    for finding in source.findings:
        if finding.rule != "header":  # that is among the errors, where it stands in live code
            sheet.add(finding.rule, finding.message, 0.0, finding.line, finding.column)
    counts = {"errors": float(len(report.errors)), "warnings": float(len(report.warnings))}
    return sheet, not report.errors and not report.broke_off, counts


def _overall(scores: dict[str, float], rubric: Rubric) -> float:
    return round(sum(float(getattr(rubric, f"weight_{part}")) * points for part, points in scores.items()), 6)


def _metrics(tree: Tree, live: str) -> dict[str, float]:
    lines = sum(bool(line.strip()) for line in live.split("\n"))
    return {"lines": lines, "functions": len(tree.functions), "comments": len(tree.comments)}


def _worthless(attempt: Attempt, code: Extracted, rubric: Rubric, rule: str, why: str) -> Verdict:
    return Verdict(
        prompt_id=attempt.prompt_id,
        sample=attempt.sample,
        overall=0.0,
        syntax=0.0,
        protocol=0.0,
        safety=0.0,
        style=0.0,
        compiles=False,
        code=code.code[:SHOWN],
        language=code.language,
        rubric=rubric.version,
        evidence=syntax.nothing(why, rule).lines(),
        metrics={"lines": 0.0, "functions": 0.0, "comments": 0.0},
    )
