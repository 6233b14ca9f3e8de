"""One answer, and why it got its score: its code with what was said about it, the evidence by part, the teacher's correction."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from reflux.records import WEIGHTS, Correction, Evidence, Verdict
from reflux.spec import RunSpec
from reflux.views import AnswerView
from services.api.dashboard import code, diff, words

PARTS = {"syntax": "Syntax", "protocol": "Words", "safety": "Safety", "style": "Style"}
FATES = {True: "correction taken", False: "correction refused", None: "correction not judged"}
TIMES = "\u00d7"
MEANT = {
    "syntax": "what GCC says",
    "protocol": "words of the domain in names that are used",
    "safety": "what is dangerous, and what is careful",
    "style": "comments, names, indentation",
}


def weights(spec: RunSpec) -> dict[str, float]:
    return {part: spec.rubric.overrides.get(f"weight_{part}", weight) for part, weight in WEIGHTS.items()}


def tone(score: float, threshold: float) -> str:
    return "good" if score >= threshold else "bad" if score < threshold - 2 else "waiting"


def prompt(text: str) -> Markup:
    return Markup('<div class="prompt">{}</div>').format(code.visible(text))


def warnings(answer: AnswerView) -> list[str]:
    """What a reader must know before they trust their eyes."""
    found = []
    if answer.error:
        found.append(f"The student did not answer: {answer.error}")
    if answer.finish_reason == "length":
        found.append("The answer ran into the token limit, and was cut off.")
    if answer.verdict.heuristic:
        found.append("No compiler looked at it: the evaluator has none, and went by brackets and semicolons.")
    hidden = code.hides(answer.text)
    if hidden:
        found.append(
            f"It has characters that are not seen, or turn others round. They are marked below: {'; '.join(hidden[:6])}."
        )
    return [code.plain(told) for told in found]


def listing(answer: AnswerView) -> Markup:
    """The code, with the compiler's messages and all that cost points at their lines."""
    verdict = answer.verdict
    if not verdict.code.strip():
        return Markup('<p class="empty">There is no code in this answer.</p>')
    said = [item for item in verdict.evidence if item.line and (code.is_compiler(item) or code.is_severe(item))]
    return code.annotated(verdict.code, verdict.language, said, anchor="line")


def whole(answer: AnswerView) -> Markup:
    return Markup(
        "<details><summary>The whole answer, as it was written ({:,} characters)</summary><pre>{}</pre></details>"
    ).format(len(answer.text), code.visible(answer.text))


def evidence(verdict: Verdict, weighing: Mapping[str, float], *, anchors: bool = True) -> Markup:
    """By part its score, its weight, and every line of evidence; the lines of a part sum to its score."""
    parts = Markup("").join(_part(part, verdict, weighing[part], anchors) for part in PARTS)
    capped = [item for item in verdict.evidence if item.part == "overall"]
    sums = " + ".join(f"{weighing[part]:.2f} {TIMES} {getattr(verdict, part):.1f}" for part in PARTS)
    cap = "".join(f" {code.points(item.points)}" for item in capped if item.points)
    tricks = Markup("").join(_line(item, anchors) for item in capped)
    whole = Markup('<div class="part overall"><p class="sum">{}{} = <b>{:.2f}</b></p>{}</div>').format(
        sums, cap, verdict.overall, Markup("<ul>{}</ul>").format(tricks) if tricks else ""
    )
    rules = Markup('<p class="quiet small">Rubric {}. Lines are those of the code.</p>').format(verdict.rubric)
    return Markup('<div class="evidence">{}{}{}</div>').format(parts, whole, rules)


def _part(part: str, verdict: Verdict, weight: float, anchors: bool) -> Markup:
    score = getattr(verdict, part)
    lines = [item for item in verdict.evidence if item.part == part]
    shown = sorted(lines, key=lambda item: (item.rule != "base", -abs(item.points), item.line or 0))
    return Markup(
        '<section class="part"><h3><span>{}</span><span class="score number">{:.1f}</span></h3>'
        '<div class="meter" aria-hidden="true"><i style="width:{:.0f}%"></i></div>'
        '<p class="quiet small">{}; counts {:.0%}</p><ul>{}</ul></section>'
    ).format(
        PARTS[part],
        score,
        10 * score,
        MEANT[part],
        weight,
        Markup("").join(_line(item, anchors) for item in shown),
    )


def _line(item: Evidence, anchors: bool) -> Markup:
    where: Markup | str = ""
    if item.line:
        link = (
            Markup('<a href="#line-{}" class="quiet">line {}</a>') if anchors else Markup('<span class="quiet">line {1}</span>')
        )
        where = link.format(item.line, item.line)
    css = "minus" if item.points < 0 else "plus" if item.points > 0 else "none"
    return Markup('<li class="{}"><span class="number">{}</span><span>{} {}</span></li>').format(
        css, code.points(item.points) or "\u00b7", code.visible(item.message), where
    )


def correction(row: Correction, *, waits: bool, next_epoch: int) -> Markup:
    """What became of it, and why."""
    before = f"{row.attempt_verdict.overall:.2f}"
    after = f"{row.verdict.overall:.2f}" if row.verdict else "not judged yet"
    mark, css, told = _fate(row, waits, next_epoch)
    asked = " It was asked twice." if row.ask > 1 else ""
    cost = "reused" if row.answer.reused else words.dollars(row.answer.cost_usd)
    return Markup(
        '<p><span class="chip tone-{}">{}</span> <b class="number">{} \u2192 {}</b> {}{}</p>'
        '<p class="quiet small">{} {}, {:,} tokens in, {:,} out, {}</p>'
    ).format(
        css, mark, before, after, code.visible(told), asked,
        code.visible(row.answer.model), code.visible(row.answer.answered_at),
        row.answer.input_tokens, row.answer.output_tokens, cost,
    )  # fmt: skip


def _fate(row: Correction, waits: bool, next_epoch: int) -> tuple[str, str, str]:
    if row.answer.error:
        return "Missing", "bad", f"The teacher did not answer: {row.answer.error}."
    if row.admitted is None:
        return "Not judged", "waiting", "The evaluator has not looked at it yet."
    if not row.admitted:
        return "Refused", "bad", f"It is not trained on: {row.why or 'it is no better'}."
    why = f" ({row.why})" if row.why else ""
    if waits:
        return "Waits for you", "waiting", f"A person must let it pass{why}."
    return "Taken", "good", f"It is trained on in epoch {next_epoch}{why}."


def difference(row: Correction, *, split: bool) -> Markup:
    old, new, language = sides(row)
    taken, given = diff.changed(old, new, language)
    head = Markup('<p class="quiet small">{} lines taken, {} given</p>').format(taken, given)
    return head + diff.shown(old, new, language, split=split)


def sides(row: Correction) -> tuple[str, str, str]:
    """The student's code and the teacher's, and their language; both whole answers where the teacher's was not judged."""
    if row.verdict is None:
        return row.attempt.text, row.answer.text, row.attempt_verdict.language
    return row.attempt_verdict.code, row.verdict.code, row.verdict.language


def across(found: Sequence[tuple[int, float, bool, str]], here: int, threshold: float) -> Markup:
    """Epochs as bars, each a link: epoch, mean score, whether it compiles, address."""
    bars = Markup("").join(_bar(*one, here, threshold) for one in found)
    return Markup('<ol class="across" aria-label="The same prompt across epochs">{}</ol>').format(bars)


def _bar(epoch: int, score: float, compiles: bool, address: str, here: int, threshold: float) -> Markup:
    told = f"Epoch {epoch}: {score:.1f}{'' if compiles else ', does not compile'}"
    return Markup(
        '<li><a href="{}" class="{}" aria-label="{}" title="{}"{}><span class="number">{:.1f}</span>'
        '<i class="tone-{}" style="height:{:.0f}%"></i><span class="at">{}</span></a></li>'
    ).format(
        address,
        "" if compiles else "broken",
        told,
        told,
        Markup(' aria-current="true"') if epoch == here else "",
        score,
        tone(score, threshold),
        max(4, 10 * score),
        epoch,
    )


def waits(row: Correction, spec: RunSpec) -> bool:
    """Whether a person has still to let it pass."""
    return spec.refining.review and bool(row.admitted) and not row.why.startswith(("approved", "edited", "refused"))


def brief(answer: AnswerView, spec: RunSpec) -> Markup:
    """An entry of the list."""
    verdict = answer.verdict
    errors, warned = verdict.metrics.get("errors", 0), verdict.metrics.get("warnings", 0)
    state = f"{errors:g} errors" if errors else "does not compile" if not verdict.compiles else ""
    state = state or (f"{warned:g} warnings" if warned else "compiles")
    fate = ""
    if answer.correction is not None:
        fate = "correction waits for you" if waits(answer.correction, spec) else FATES[answer.correction.admitted]
    sample = f"sample {answer.sample + 1}" if answer.model != "student" else ""
    told = " · ".join(part for part in (answer.domain, state, fate, sample) if part)
    return Markup('<span class="score number tone-{}">{:.1f}</span><span class="about"><b>{}</b><small>{}</small></span>').format(
        tone(verdict.overall, spec.refining.quality_threshold), verdict.overall, code.visible(answer.prompt[:160]), told
    )
