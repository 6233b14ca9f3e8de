"""The teacher's two jobs in a run: to answer the student's prompts, and to correct the student's poor answers."""

import re
import time
from itertools import islice

from reflux.commands import Correct, Teach
from reflux.errors import Retriable
from reflux.events import CorrectionsWritten, PromptsTaught
from reflux.records import Answer, Correction, Evidence, Prompt, TeacherAnswer, Verdict
from reflux.task import Task
from services.teacher_worker.teacher import Answers, Question, ask_all

MOST_EVIDENCE = 20  # lines of diagnostics that the teacher is shown
LONGEST_ATTEMPT = 12_000  # characters of the student's code

CORRECT = """\
A smaller model was given this task:

{prompt}

It answered:

```{tag}
{attempt}
```

Score: {score:.1f} of 10. What the compiler and the rules say:
{evidence}
{again}
Correct the code so that it fulfils the task and none of these findings remains. \
Keep names and signatures that the task asks for. \
Answer with the complete corrected code in one ```{tag} block, and nothing else."""

AGAIN = """
An earlier correction was refused: {why}

```{tag}
{refused}
```

What was said about that one:
{evidence}
"""

PRACTICE = b'"set":"practice"'  # as prompts.jsonl is written; within a text its quotes would be escaped

FENCE = re.compile(r"```[ \t]*([\w+#.-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


def teach(task: Task) -> PromptsTaught:
    """Let the teacher answer the practice prompts [start, stop)."""
    command = task.command
    assert isinstance(command, Teach)
    began = time.monotonic()
    practice = (line for line in task.artifacts.lines(command.prompts_path) if PRACTICE in line)
    chosen = [Prompt.model_validate_json(line) for line in islice(practice, command.start, command.stop)]
    answers = ask_all(task, "teach", [Question(p.id, p.text, p.domain, p.text) for p in chosen], budget_usd=command.budget_usd)
    answers.rows = [_with_code(row) for row in answers.rows]
    if answers.rows and not answers.answered:
        raise answers.raise_for()
    path = f"{task.folder}/taught.jsonl"
    task.artifacts.write_rows(path, answers.answered)
    task.artifacts.write_rows(f"{task.folder}/failed.jsonl", answers.failed)
    return PromptsTaught(
        key=command.key,
        seconds=time.monotonic() - began,
        warnings=_warnings(answers),
        path=path,
        answered=len(answers.answered),
        failed=len(answers.failed),
        unasked=answers.unasked,
        usage=answers.usage,
    )


def correct(task: Task) -> CorrectionsWritten:
    """Let the teacher correct this shard of the poor answers, worst first, or those corrections that were refused."""
    command = task.command
    assert isinstance(command, Correct)
    began = time.monotonic()
    wanted = _refused(task, command.refused_path) if command.refused_path else _worst(task, command)
    questions = {c.prompt_id: Question(c.prompt_id, c.prompt, c.domain, question_text(c)) for c in wanted}
    answers = ask_all(task, f"correct-{command.epoch}", list(questions.values()), command.ask, command.budget_usd)
    if answers.rows and not answers.answered and isinstance(error := answers.raise_for(), Retriable):
        raise error
    by_prompt = {row.prompt_id: row for row in answers.answered}
    path = f"{task.folder}/corrections.jsonl"
    task.artifacts.write_rows(
        path, [_corrected(c, by_prompt[c.prompt_id], command.ask) for c in wanted if c.prompt_id in by_prompt]
    )
    task.artifacts.write_rows(f"{task.folder}/failed.jsonl", answers.failed)
    return CorrectionsWritten(
        key=command.key,
        seconds=time.monotonic() - began,
        warnings=_warnings(answers),
        path=path,
        requested=len(wanted),
        answered=len(answers.answered),
        unasked=answers.unasked,
        usage=answers.usage,
    )


def question_text(correction: Correction) -> str:
    """What the teacher is asked: the task, the attempt, and the findings as the evaluator wrote them."""
    verdict = correction.attempt_verdict
    attempt = (verdict.code or correction.attempt.text or "(nothing)").strip()
    tag = "cpp" if verdict.language == "c++" else "c"
    again = ""
    if correction.admitted is False:
        again = AGAIN.format(
            why=correction.why or "it did not score higher",
            tag=tag,
            refused=correction.answer.text[:LONGEST_ATTEMPT],
            evidence=_findings(correction.verdict),
        )
    return CORRECT.format(
        prompt=correction.prompt,
        tag=tag,
        attempt=attempt[:LONGEST_ATTEMPT],
        score=verdict.overall,
        evidence=_findings(verdict),
        again=again,
    )


def code_only(text: str) -> str:
    """The reply's code alone, in one block: what the student is to learn to write. A reply without blocks stays as it is."""
    blocks = [(tag, code.strip("\n")) for tag, code in FENCE.findall(text) if code.strip()]
    if not blocks:
        return text.strip()
    wanted = [block for block in blocks if block[0].lower() in ("", "c", "h", "cpp", "c++", "cc", "cxx")] or blocks
    tag = next((tag for tag, _ in wanted if tag), "c")
    return f"```{tag}\n" + "\n\n".join(code for _, code in wanted) + "\n```"


def _with_code(row: TeacherAnswer) -> TeacherAnswer:
    """Taught answers are trained on as they are: one that is nothing but prose counts as failed. Corrections are judged."""
    if row.error or FENCE.search(row.text) or ";" in row.text:
        return row
    return row.model_copy(update={"error": "there is no code in the answer"})


def _worst(task: Task, command: Correct) -> list[Correction]:
    answers = {
        (row.prompt_id, row.sample): row for path in command.answers_paths for row in task.artifacts.read_rows(path, Answer)
    }
    verdicts = [row for path in command.verdicts_paths for row in task.artifacts.read_rows(path, Verdict)]
    poor = sorted(
        (v for v in verdicts if v.overall < task.spec.refining.quality_threshold),
        key=lambda v: (v.overall, v.prompt_id, v.sample),
    )
    worst = {verdict.prompt_id: verdict for verdict in reversed(poor)}  # of several answers to a prompt the worst
    chosen = sorted(worst.values(), key=lambda v: (v.overall, v.prompt_id))[: command.limit]
    return [_asked_for(answers[v.prompt_id, v.sample], v) for v in chosen[command.shard % command.shards :: command.shards]]


def _refused(task: Task, path: str) -> list[Correction]:
    return [row for row in task.artifacts.read_rows(path, Correction) if row.admitted is False]


def _asked_for(answer: Answer, verdict: Verdict) -> Correction:
    """A correction that is still to be written."""
    nothing = TeacherAnswer(prompt_id=answer.prompt_id, prompt=answer.prompt, domain=answer.domain, model="")
    return Correction(
        prompt_id=answer.prompt_id,
        prompt=answer.prompt,
        domain=answer.domain,
        attempt=answer,
        attempt_verdict=verdict,
        answer=nothing,
    )


def _corrected(correction: Correction, answer: TeacherAnswer, ask: int) -> Correction:
    answer = answer.model_copy(update={"text": code_only(answer.text)})
    return correction.model_copy(update={"answer": answer, "ask": ask, "verdict": None, "admitted": None, "why": ""})


def _findings(verdict: Verdict | None) -> str:
    if verdict is None:
        return "- nothing was written down"
    evidence = sorted(verdict.evidence, key=lambda e: e.points)[:MOST_EVIDENCE]
    return "\n".join(f"- {_finding(e)}" for e in evidence) or "- nothing in particular"


def _finding(evidence: Evidence) -> str:
    where = f", line {evidence.line}" if evidence.line else ""
    return f"{evidence.part}{where}: {evidence.message} ({evidence.points:+g})"


def _warnings(answers: Answers) -> tuple[str, ...]:
    if not answers.redacted:
        return ()
    return (f"{answers.redacted} secrets were blotted out of what went to the teacher",)
