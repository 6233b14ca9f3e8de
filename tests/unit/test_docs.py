"""The documents name only what there is: files, make targets, commands. The reference of the CLI is the CLI's own."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from reflux.cli import app, reference

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
    targets |= {f"bench-{path.stem}" for path in (ROOT / "benchmarks").glob("*.py")}
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


def test_the_reference_of_the_cli_is_committed() -> None:
    assert (ROOT / "docs" / "cli.md").read_text() == reference.document(), "python -m reflux.cli.reference > docs/cli.md"


@pytest.mark.parametrize(("path", "command", "context"), list(reference.commands()), ids=lambda part: str(part)[:40])
def test_a_command_s_help_teaches(path: str, command: Any, context: Any) -> None:
    """It says what the command does and what each option is for, and its examples are commands that the CLI takes."""
    assert command.help
    for parameter in command.params:
        assert parameter.help or parameter.name == "help", f"{path}: {parameter.name} is not explained"
    examples = reference.examples_of(command)
    assert examples
    for example in examples:
        found = re.search(rf"{path}(?P<rest>[^|)<]*)", example)
        assert found, f"{example} is no example of {path}"
        command.make_context(path, shlex.split(found["rest"]))
    assert max(map(len, command.get_help(context).splitlines())) <= 80
