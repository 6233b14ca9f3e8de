"""The documents name only what there is: files, make targets, commands."""

import re
from pathlib import Path

import pytest
import typer

from reflux.cli import app

ROOT = Path(__file__).parents[2]
DOCUMENTS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text())
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)`|^\s*make ([a-z-]+)$", document.read_text(), re.M))
    assert {a or b for a, b in named} <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: str(p.relative_to(ROOT)))
def test_commands_exist(document: Path) -> None:
    named = re.findall(r"(?:`|^)reflux ([a-z][a-z-]*)(?: ([a-z][a-z-]*))?", document.read_text(), re.M)
    groups = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for command, inner in named:
        assert command in groups, f"`reflux {command}` is no command"
        commands = getattr(groups[command], "commands", None)
        assert commands is None or inner in commands, f"`reflux {command} {inner}` is no command"
