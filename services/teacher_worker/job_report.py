"""report.md of a job: its phases, what it left, and what its command says of itself.

A command's `report.md`, `metrics.json` (names and numbers) and pictures, at the top of its outputs, become part of it.
"""

import json
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

from reflux.artifacts import Artifacts, run_folder
from reflux.summary import Summary

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".svg"})
NAMED = 50  # files that are listed; all are counted
OWN_WORDS = 100_000  # bytes of a command's own report


def write_job_report(artifacts: Artifacts, run_id: str, summary: Summary) -> None:
    """Write runs/<id>/report.md."""
    text = "\n\n".join(_sections(artifacts, run_folder(run_id), summary))
    artifacts.put(f"{run_folder(run_id)}/report.md", (text + "\n").encode())


def _sections(artifacts: Artifacts, folder: str, summary: Summary) -> Iterator[str]:
    yield f"# {summary.name}"
    yield f"The command of this job has {_ended(summary)}."
    if summary.error:
        yield f"**Error.** {summary.error}"
    logs = artifacts.sizes(f"{folder}/logs")
    stories = sorted((path for path in logs if path.endswith(".json")), key=_attempt)
    if stories:
        yield "## Phases"
        yield _phases(artifacts.get_json(stories[-1]))
    for title, place in (("Outputs", "outputs"), ("Unfinished outputs", "partial")):
        sizes = artifacts.sizes(f"{folder}/{place}")
        if sizes:
            yield f"## {title}"
            yield from _outputs(artifacts, folder, sizes)
    if kept := [path for path in sorted(logs, key=_attempt) if path.endswith(".log")]:
        yield "## Logs"
        yield "\n".join(f"- [{path.removeprefix(folder + '/')}]({path.removeprefix(folder + '/')})" for path in kept)
    if summary.warnings:
        yield "## Warnings"
        yield "\n".join(f"- {warning}" for warning in summary.warnings)


def _ended(summary: Summary) -> str:
    if summary.outcome == "succeeded":
        return "ended well"
    return f"not ended well: the run is {summary.outcome or 'not over'}" + (f", as {summary.reason}" if summary.reason else "")


def _phases(story: dict[str, Any]) -> str:
    lines = [f"Attempt {story['attempt']}, from {story['timestamp_start']} to {story['timestamp_end']}.", ""]
    lines += ["| phase | status | seconds | |", "|---|---|---|---|"]
    for name, phase in story["phases"].items():
        facts = {key: value for key, value in phase.items() if key not in ("status", "duration_seconds") and value is not None}
        told = ", ".join(f"{key.replace('_', ' ')}: {_cell(value)}" for key, value in facts.items())
        lines.append(f"| {name} | {phase['status']} | {phase['duration_seconds']:g} | {told} |")
    return "\n".join(lines)


def _outputs(artifacts: Artifacts, folder: str, sizes: dict[str, int]) -> Iterator[str]:
    def shown(path: str) -> str:
        return path.removeprefix(f"{folder}/")

    top = {path: PurePosixPath(path) for path in sizes if PurePosixPath(path).parts[-2] == "outputs"}
    yield from (_metrics(artifacts.get(path)) for path, name in top.items() if name.name == "metrics.json")
    for path, name in top.items():
        if name.suffix.lower() in PICTURES:
            yield f"![{_cell(name.stem)}]({shown(path).replace(' ', '%20')})"
    lines = [f"{len(sizes)} files, {sum(sizes.values())} bytes:", ""]
    lines += [f"- `{shown(path)}`, {size} bytes" for path, size in list(sizes.items())[:NAMED]]
    yield "\n".join(lines)
    for path, name in top.items():
        if name.name == "report.md" and sizes[path] <= OWN_WORDS:
            yield f"## What the command says\n\n{artifacts.get(path).decode(errors='replace').strip()}"


def _metrics(data: bytes) -> str:
    try:
        found = json.loads(data)
    except ValueError:
        return "`metrics.json` is not JSON."
    if not isinstance(found, dict):
        return "`metrics.json` is not a table of names and numbers."
    numbers = {name: value for name, value in found.items() if isinstance(value, int | float)}
    return "\n".join(["| | |", "|---|---|", *(f"| {_cell(name)} | {value:g} |" for name, value in numbers.items())])


def _attempt(path: str) -> int:
    found = re.search(r"-(\d+)\.\w+$", path)
    return int(found[1]) if found else 0


def _cell(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return re.sub(r"[|\r\n]", " ", text)[:300]
