"""From one answer to one verdict, and from many to many."""

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reflux.records import Verdict
from services.evaluator import gaming, protocol, safety, style, syntax
from services.evaluator.compiler import Compiler, Dialect
from services.evaluator.extract_code import Extracted, extract
from services.evaluator.rubric import Rubric
from services.evaluator.sheet import Sheet
from services.evaluator.source import Source, only_lines, skeleton
from services.evaluator.tree import Tree, parse

LONGEST = 100_000
SHOWN = 20_000


@dataclass(frozen=True)
class Attempt:
    """A text to be scored. `prompt` and its `domain` decide which words are looked for."""

    text: str
    prompt: str = ""
    domain: str = "generic"
    prompt_id: str = ""
    sample: int = 0

    @property
    def key(self) -> tuple[str, str, str]:
        """What the score depends on."""
        return self.text, self.prompt, self.domain


def score(attempt: Attempt, rubric: Rubric | None = None, compiler: Compiler | None = None) -> Verdict:
    """Score one text. Any text: what can't be judged scores 0 and says why."""
    rubric, compiler = rubric or Rubric(), compiler or the_compiler()
    code = extract(attempt.text)
    if len(code.code) > LONGEST:
        return _worthless(
            attempt, code, rubric, "too-long", f"{len(code.code)} characters of code; at most {LONGEST} are looked at"
        )
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
    return _judged(attempt, code, source, live, rubric, compiler)


def score_all(
    attempts: Sequence[Attempt], rubric: Rubric, compiler: Compiler, tell: Callable[[int], None] | None = None
) -> list[Verdict]:
    """Score many texts side by side; the same text under the same prompt once. `tell` hears how many are done, and may raise."""
    verdicts = dict[tuple[str, str, str], Verdict]()
    with ThreadPoolExecutor(os.cpu_count() or 2) as pool:
        futures = {key: pool.submit(score, Attempt(*key), rubric, compiler) for key in dict.fromkeys(row.key for row in attempts)}
        try:
            for done, (key, future) in enumerate(futures.items(), 1):
                verdicts[key] = future.result()
                if tell:
                    tell(done)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [verdicts[row.key].model_copy(update={"prompt_id": row.prompt_id, "sample": row.sample}) for row in attempts]


def zero(attempt: Attempt, rubric: Rubric, rule: str, why: str) -> Verdict:
    """The verdict on an answer that there is not."""
    return _worthless(attempt, Extracted("", "c"), rubric, rule, why)


def the_compiler(dialect: Dialect | None = None) -> Compiler:
    """The process's compiler for a dialect: its jails stay, and wait for the next text."""
    with _lock:
        return _compiler(dialect or Dialect())


_lock = threading.Lock()
_compiler = functools.cache(Compiler)


def _judged(attempt: Attempt, code: Extracted, source: Source, live: str, rubric: Rubric, compiler: Compiler) -> Verdict:
    known = compiler.knows(code.language)
    tree = parse(live, code.language)
    domain = protocol.domain_of(attempt.prompt, attempt.domain, rubric.words)
    if known:
        report = compiler.check(source, code.language)
        syntax_sheet = syntax.from_report(report, rubric)
        compiles = not report.errors and not report.broke_off
        counts = {"errors": len(report.errors), "warnings": len(report.warnings)}
    else:
        syntax_sheet = syntax.heuristic(skeleton(live, code.language), rubric)
        compiles, counts = syntax_sheet.total >= rubric.heuristic_base, {}
    sheets = {
        "syntax": syntax_sheet,
        "protocol": protocol.score(tree, domain, rubric),
        "safety": safety.score(tree, rubric),
        "style": style.score(tree, live, rubric),
    }
    scores = {part: sheet.score() for part, sheet in sheets.items()}
    whole = _overall(scores, rubric)
    overall = Sheet("overall")
    for rule, message, line in gaming.tricks(tree, source, attempt.prompt, live, rubric.words.get(domain, ())):
        taken = min(0.0, rubric.gaming_cap - whole - overall.total)
        overall.add(rule, message, taken, line)
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
        heuristic=not known,
        rubric=rubric.version,
        evidence=tuple(line for sheet in (*sheets.values(), overall) for line in sheet.lines()),
        metrics={**counts, **_metrics(tree, live)},
    )


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
