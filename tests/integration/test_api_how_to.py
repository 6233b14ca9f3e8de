"""The how-tos can't rot: their specs are valid, their commands exist, and what needs no other machine is run."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from reflux.cli import app, reference
from reflux.client import Client
from reflux.local.stack import Stack
from reflux.spec import check
from tests.e2e.tiny import EXAMPLES
from tests.environment import ROOT

GUIDES = sorted((ROOT / "docs" / "how-to").glob("*.md"))


def blocks(guide: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", guide.read_text(), re.DOTALL)


def commands(guide: Path) -> list[list[str]]:
    return [shlex.split(line) for block in blocks(guide, "sh") for line in block.splitlines() if line]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_specs_are_valid_and_commands_exist(guide: Path) -> None:
    for text in blocks(guide, "yaml"):
        assert check(yaml.safe_load(text))[1] == []
    known = {path: command for path, command, _ in reference.commands()}
    assert commands(guide)
    for words in commands(guide):
        path = max((path for path in known if words[: len(path.split())] == path.split()), key=len)
        known[path].make_context(path, words[len(path.split()) :])


@pytest.fixture
def cli(control_plane: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """In a folder with what the guides speak of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REFLUX_URL", control_plane.api_url)
    monkeypatch.setenv("REFLUX_KEY", control_plane.keys["operator"])
    (tmp_path / "gate.c").write_text((EXAMPLES / "corpus/tsn/gate_control_list.c").read_text())
    return CliRunner()


def spec_of(guide: str, **changes: object) -> str:
    return str(yaml.safe_dump(yaml.safe_load(blocks(ROOT / "docs" / "how-to" / guide, "yaml")[0]) | changes))


def test_own_data(cli: CliRunner) -> None:
    sources = [{"uri": f"file://{EXAMPLES}/corpus/{domain}", "domain": domain} for domain in ("tsn", "avb")]
    Path("ours.yaml").write_text(spec_of("own-data.md", data={"sources": sources}))
    prepare, _, dry_run, _ = commands(ROOT / "docs/how-to/own-data.md")
    made = cli.invoke(app, prepare[1:])
    assert made.exit_code == 0, made.output
    assert (Path("ours-dataset") / "train.jsonl").exists()
    told = cli.invoke(app, dry_run[1:])
    assert told.exit_code == 0, told.output
    assert "GPU hours" in told.output


def test_own_rubric(cli: CliRunner) -> None:
    Path("strict.yaml").write_text(spec_of("own-rubric.md"))
    for words in commands(ROOT / "docs/how-to/own-rubric.md"):
        scored = cli.invoke(app, words[1:])
        assert scored.exit_code in (0, 1), scored.output
        assert "gate.c" in scored.output


def test_gemma_on_csv(cli: CliRunner, client: Client) -> None:
    guide = ROOT / "docs/how-to/finetune-gemma-on-csv.md"
    Path("rows.csv").write_text(blocks(guide, "csv")[0])
    upload, dry_run, *_ = commands(guide)
    stored = cli.invoke(app, upload[1:])
    assert stored.exit_code == 0, stored.output
    assert "2 rows are stored" in stored.output
    uri = stored.output.strip().rpartition("train: ")[2]
    Path("gemma.yaml").write_text(spec_of("finetune-gemma-on-csv.md", data={"train": uri}))
    told = cli.invoke(app, dry_run[1:])
    assert told.exit_code == 0, told.output
    assert "GPU memory  " in told.output
    run = cli.invoke(app, ["run", "start", "gemma.yaml", "--json"])
    assert run.exit_code == 0, run.output
    client.abort(client.runs(name="gemma-on-csv").data[0].id)
