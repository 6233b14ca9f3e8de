"""report.md with its plots: what the run did, and whether it gained anything."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from matplotlib.figure import Figure
from pydantic import ValidationError

from reflux.artifacts import Artifacts, run_folder
from reflux.records import Prompt, Verdict
from reflux.summary import Comparison, EpochMetrics, Scores, Summary, Usage
from services.teacher_worker.job_report import write_job_report

PARTS = ("overall", "syntax", "protocol", "safety", "style")
COLOURS = ("#1b1b1b", "#3366cc", "#2a9d5c", "#c7562c", "#8a5cb8")
SHOWN_DOMAINS = ("tsn", "avb", "ptp", "gptp")  # whose test prompts are shown first
SHOWN = 3


@dataclass(frozen=True)
class Shown:
    """A test prompt with the first answer of the base model and of the best adapter, where they were scored."""

    prompt: Prompt
    base: Verdict | None
    best: Verdict | None


def write_report(artifacts: Artifacts, run_id: str, summary: Summary, prompts_path: str | None) -> None:
    """Write runs/<id>/report.md and the plots that it shows, below runs/<id>/report/. A fork's prompts lie in another run."""
    if summary.recipe == "job":
        return write_job_report(artifacts, run_id, summary)
    folder = run_folder(run_id)
    plots = dict(_plots(summary))
    for name, figure in plots.items():
        artifacts.put(f"{folder}/report/{name}.png", _png(figure))
    text = "\n\n".join(_sections(summary, tuple(plots), shown_prompts(artifacts, run_id, prompts_path)))
    artifacts.put(f"{folder}/report.md", (text + "\n").encode())


def verdict_of(summary: Summary) -> str:
    """One honest sentence: was anything gained?"""
    comparison = summary.comparison
    if summary.outcome != "succeeded" and not summary.epochs:
        return f"The run ended as {summary.outcome} before an epoch was finished; there is no model to judge."
    if comparison is None:
        return "Base and best were not compared on test prompts, so this run does not show whether anything was gained."
    interval = f"{comparison.difference:+.2f} points (95% interval {comparison.low:+.2f} to {comparison.high:+.2f})"
    where = f"on {comparison.prompts} test prompts, {comparison.samples} answers each"
    if comparison.gained:
        return f"The best adapter scores higher than the base model: {interval} {where}."
    if comparison.high < 0:
        return f"Nothing was gained. The best adapter scores lower than the base model: {interval} {where}."
    return f"Nothing was gained that can be told from chance: {interval} {where}."


def shown_prompts(artifacts: Artifacts, run_id: str, prompts_path: str | None) -> list[Shown]:
    """Up to three test prompts of different domains. Empty where no test answers were scored, or the prompts are gone."""
    folder = f"{run_folder(run_id)}/tasks"
    paths = artifacts.paths(folder)
    scored = {model: _first_verdicts(artifacts, paths, folder, model) for model in ("base", "best")}
    if prompts_path is None or not any(scored.values()) or not artifacts.exists(prompts_path):
        return []
    tests = [prompt for prompt in artifacts.read_rows(prompts_path, Prompt) if prompt.set == "test"]
    tests = [prompt for prompt in tests if any(prompt.id in verdicts for verdicts in scored.values())]
    firsts = {prompt.domain: prompt for prompt in reversed(tests)}
    order = [firsts[domain] for domain in sorted(firsts, key=lambda d: (d not in SHOWN_DOMAINS, d))]
    order += [prompt for prompt in tests if prompt not in order]
    return [Shown(prompt, scored["base"].get(prompt.id), scored["best"].get(prompt.id)) for prompt in order[:SHOWN]]


def _first_verdicts(artifacts: Artifacts, paths: Iterable[str], folder: str, model: str) -> dict[str, Verdict]:
    wanted = re.compile(rf"^{re.escape(folder)}/score-\d+-{model}-test-\d+/.*\.jsonl$")
    verdicts: dict[str, Verdict] = {}
    for path in filter(wanted.match, paths):
        try:
            rows = list(artifacts.read_rows(path, Verdict))
        except ValidationError:
            continue  # another kind of rows
        for row in rows:
            if row.sample == 0:
                verdicts.setdefault(row.prompt_id, row)
    return verdicts


def _sections(summary: Summary, plots: tuple[str, ...], shown: list[Shown]) -> Iterator[str]:
    yield f"# {summary.name}"
    yield verdict_of(summary)
    yield _facts(summary)
    if summary.error:
        yield f"**Error.** {summary.error}"
    if summary.comparison:
        yield "## Base against best"
        yield _comparison_table(summary.comparison)
    if summary.epochs:
        yield "## Epochs"
        yield _epoch_table(summary.epochs, summary.best_epoch)
    if summary.recipe == "distill":
        yield "## The teacher's cost"
        yield _cost_table(summary)
    for name in plots:
        yield f"![{name.replace('_', ' ')}](report/{name}.png)"
    if shown:
        yield "## Test prompts and their answers"
        yield from (_shown(one) for one in shown)
    if summary.warnings:
        yield "## Warnings"
        yield "\n".join(f"- {warning}" for warning in summary.warnings)


def _facts(summary: Summary) -> str:
    usage = summary.usage
    facts = {
        "Run": f"`{summary.run_id}`, recipe {summary.recipe}",
        "Outcome": f"{summary.outcome or 'open'}{' (partial)' if summary.partial else ''}: {summary.reason}",
        "Student": f"`{summary.student}`",
        "Teacher": f"`{summary.teacher}`" if summary.teacher else "none",
        "Data": ", ".join(f"{count} {name}" for name, count in summary.counts.items()) or "none",
        "Best epoch": summary.best_epoch,
        "Teacher's cost": f"${usage.cost_usd:.4f} for {usage.calls} answers{_besides(usage)}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items() if value is not None)])


def _besides(usage: Usage) -> str:
    parts = [f"; {usage.reused} more were bought by other runs"] if usage.reused else []
    if usage.at_risk:
        parts.append(f"; {usage.at_risk} calls were never answered, and the provider may have charged for them")
    return "".join(parts)


def _cost_table(summary: Summary) -> str:
    """What was bought when, and what had been expected."""
    lines = ["| | answers | tokens in | tokens out | cost |", "|---|---|---|---|---|"]

    def row(name: str, calls: int, tokens_in: int, tokens_out: int, cost: float) -> None:
        lines.append(f"| {name} | {calls} | {tokens_in} | {tokens_out} | ${cost:.4f} |")

    stages = {"teaching": summary.teaching_usage} | {f"epoch {e.epoch}, corrections": e.usage for e in summary.epochs}
    for name, usage in (*stages.items(), ("**in all**", summary.usage)):
        row(name, usage.calls, usage.input_tokens, usage.output_tokens, usage.cost_usd)
    if expected := summary.estimate:
        row("estimated before", expected.calls, expected.input_tokens, expected.output_tokens, expected.cost_usd)
        lines.append(f"| the most it could be | {expected.most_calls} | | | ${expected.most_cost_usd:.4f} |")
    return "\n".join(lines)


def _comparison_table(comparison: Comparison) -> str:
    lines = ["| | base | best | difference |", "|---|---|---|---|"]
    for part in (*PARTS, "compiling"):
        base, best = getattr(comparison.base, part), getattr(comparison.best, part)
        if part == "compiling":
            lines.append(f"| {part} | {base:.0%} | {best:.0%} | {100 * (best - base):+.0f} points |")
        else:
            lines.append(f"| {part} | {base:.2f} | {best:.2f} | {best - base:+.2f} |")
    return "\n".join(lines)


def _epoch_table(epochs: tuple[EpochMetrics, ...], best: int | None) -> str:
    lines = [
        "| epoch | train loss | val loss | practice | dev | compiling | poor | corrections admitted / asked | cost |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for e in epochs:
        val = f"{e.val_loss:.3f}" if e.val_loss is not None else ""
        dev = f"{e.dev.overall:.2f}" if e.dev else ""
        mark = " (best)" if e.epoch == best else ""
        lines.append(
            f"| {e.epoch}{mark} | {e.train_loss:.3f} | {val} | {e.practice.overall:.2f} | {dev} | {e.practice.compiling:.0%} "
            f"| {e.correction_rate:.0%} | {e.admitted} / {e.requested} | ${e.usage.cost_usd:.4f} |"
        )
    return "\n".join(lines)


def _shown(one: Shown) -> str:
    parts = [f"### {one.prompt.domain}: {one.prompt.id}", "> " + one.prompt.text.replace("\n", "\n> ")]
    for name, verdict in (("Base", one.base), ("Best", one.best)):
        if verdict is None:
            parts.append(f"**{name}**: not scored.")
            continue
        code = verdict.code.strip() or "(no code)"
        fence = "`" * max(3, 1 + max((len(run) for run in re.findall(r"`+", code)), default=0))
        scores = ", ".join(f"{part} {getattr(verdict, part):.1f}" for part in PARTS[1:])
        parts.append(f"**{name}: {verdict.overall:.1f}** ({scores})\n\n{fence}c\n{code}\n{fence}")
    return "\n\n".join(parts)


def _plots(summary: Summary) -> Iterator[tuple[str, Figure]]:
    if summary.epochs and any(e.practice.count for e in summary.epochs):
        yield "scores", _scores_plot(summary.epochs)
        yield "correction_rate", _rate_plot(summary.epochs)
    if summary.comparison:
        yield "base_and_best", _comparison_plot(summary.comparison)


def _scores_plot(epochs: tuple[EpochMetrics, ...]) -> Figure:
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    numbers = [e.epoch for e in epochs]
    for part, colour in zip(PARTS, COLOURS, strict=True):
        values = [getattr(e.practice, part) for e in epochs]
        axes.plot(numbers, values, "o-", color=colour, linewidth=2.5 if part == "overall" else 1.2, label=f"practice, {part}")
    if any(e.dev for e in epochs):
        dev = [(e.epoch, e.dev.overall) for e in epochs if e.dev]
        axes.plot(*zip(*dev, strict=True), "s--", color=COLOURS[0], label="dev, overall")
    axes.set(xlabel="epoch", ylabel="mean score", ylim=(0, 10.3), xticks=numbers, title="Scores by epoch and part")
    figure.legend(fontsize="small", loc="outside right upper")
    axes.grid(alpha=0.3)
    return figure


def _rate_plot(epochs: tuple[EpochMetrics, ...]) -> Figure:
    figure = Figure(figsize=(7, 3), layout="constrained")
    axes = figure.add_subplot()
    numbers = [e.epoch for e in epochs]
    axes.bar(numbers, [100 * e.correction_rate for e in epochs], color=COLOURS[1], width=0.6)
    axes.set(
        xlabel="epoch", ylabel="% of practice answers", ylim=(0, 100), xticks=numbers, title="Answers that needed correction"
    )
    axes.grid(axis="y", alpha=0.3)
    return figure


def _comparison_plot(comparison: Comparison) -> Figure:
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    bars, interval = figure.subplots(1, 2, width_ratios=(3, 1))
    places = range(len(PARTS))
    sides: tuple[tuple[str, Scores, float, str], ...] = (
        ("base", comparison.base, -0.2, "#9a9a9a"),
        ("best", comparison.best, 0.2, COLOURS[1]),
    )
    for name, scores, shift, colour in sides:
        bars.bar([p + shift for p in places], [getattr(scores, part) for part in PARTS], 0.4, color=colour, label=name)
    bars.set(xticks=list(places), xticklabels=PARTS, ylim=(0, 10.3), ylabel="mean score", title="Test prompts")
    bars.legend()
    errors = [[comparison.difference - comparison.low], [comparison.high - comparison.difference]]
    interval.errorbar([0], [comparison.difference], yerr=errors, fmt="o", color=COLOURS[0], capsize=6)
    interval.axhline(0, color="#c7562c", linewidth=1)
    interval.set(xticks=[], title="best - base, 95%")
    return figure


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", metadata={"Software": "Reflux"})
    return out.getvalue()
