"""docs/guide.md is run: how its blocks are read stands at its head."""

import os
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from reflux.cli import app, reference
from reflux.cli.spec_file import read_spec
from reflux.local.stack import Stack
from reflux.spec import check
from reflux.views import RunView
from tests.environment import ROOT

PAGE = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: ([^\n]*))?\n(.*?)^```", re.MULTILINE | re.DOTALL)
RUN = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6}")
RULES = ("", "dry", "may-fail", "not-run")


@dataclass(frozen=True)
class Block:
    """`rule`: one of RULES; `given`: what follows its `=`."""

    language: str
    rule: str
    given: str
    text: str

    @property
    def lines(self) -> list[str]:
        return [line for line in self.text.splitlines() if line]


def blocks() -> list[Block]:
    found = []
    for language, said, text in BLOCK.findall(PAGE):
        rule, _, given = said.partition("=")
        found.append(Block(language, rule, given.strip('"'), text))
    return found


COMMANDS = [block for block in blocks() if block.language == "sh"]


def test_every_block_is_of_a_known_kind_and_exceptions_say_why() -> None:
    for block in blocks():
        match block.language:
            case "sh":
                assert block.rule in RULES, block
                assert bool(block.rule) == (len(block.given.split()) > 1), block
            case "yaml":
                assert block.rule == "file", block
            case other:
                raise AssertionError(f"nobody reads a block of {other}")
    run = [line for block in COMMANDS for line in block.lines if block.rule != "not-run"]
    assert len(run) > 3 * sum(block.rule == "not-run" for block in COMMANDS)


@pytest.fixture
def folder(tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The project's folder as a reader of the guide has it, beside a running stack."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for block in blocks():
        if block.rule == "file":
            (tmp_path / block.given).write_text(block.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "PWD": str(tmp_path),
        "REFLUX_URL": stack.api_url,
        "REFLUX_KEY": stack.keys["operator"],
        "REFLUX_TEACHER_URL": f"http://127.0.0.1:{stack.ports['teacher']}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    return tmp_path


@pytest.mark.parametrize("name", [block.given for block in blocks() if block.rule == "file"])
def test_its_specs_are_valid(folder: Path, name: str) -> None:
    assert check(read_spec(folder / name))[1] == []
    assert yaml.safe_load((folder / name).read_text())["name"]


@pytest.mark.parametrize(
    ("block", "line"), [pytest.param(b, line, id=line[:60]) for b in COMMANDS for line in b.lines if b.rule != "not-run"]
)
def test_its_commands_do_what_they_are_there_for(folder: Path, calm_run: RunView, block: Block, line: str) -> None:
    words = shlex.split(RUN.sub(calm_run.id, os.path.expandvars(line)))
    if block.rule == "dry":
        assert words[-1] == "--watch"
        words[-1] = "--dry-run"
    assert words[0] == "reflux"
    made = CliRunner().invoke(app, words[1:])
    allowed = (0, 1) if block.rule == "may-fail" else (0,)
    assert made.exit_code in allowed, made.output
    assert made.exception is None or isinstance(made.exception, SystemExit), made.output
    assert made.output.strip()


@pytest.mark.parametrize("line", [line for b in COMMANDS for line in b.lines if b.rule == "not-run"])
def test_what_is_not_run_exists(line: str) -> None:
    words = shlex.split(line)
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    else:
        known = {path: command for path, command, _ in reference.commands()}
        command = known[" ".join(words[:2])]
        command.make_context(line, words[2:])
