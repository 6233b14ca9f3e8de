"""Spec files as the commands read them: `${here}`, and `!file` for texts that lie beside the spec."""

from pathlib import Path

import pytest
import typer

from reflux.cli.spec_file import read_spec


def written(folder: Path, text: str) -> Path:
    path = folder / "spec.yaml"
    path.write_text(text)
    return path


def refused(path: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What is said about a spec that can't be read."""
    with pytest.raises(typer.Exit) as exit_:
        read_spec(path)
    assert exit_.value.exit_code == 2
    return capsys.readouterr().err


def test_a_file_s_text_stands_where_its_tag_stood(tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "system.txt").write_text("Answer in C:\n  always: ${here} ü\n\n", encoding="utf-8")
    spec = read_spec(written(tmp_path, "prompts: {system: !file texts/system.txt}\nname: !file '${here}/texts/system.txt'\n"))
    assert spec["prompts"]["system"] == "Answer in C:\n  always: ${here} ü", "as it is: no YAML, no ${here}"
    assert spec["name"] == spec["prompts"]["system"]


def test_the_path_is_relative_to_the_spec_not_to_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "system.txt").write_text("Be brief.")
    written(tmp_path / "specs", "prompts:\n  system: !file system.txt\n")
    monkeypatch.chdir(tmp_path)
    assert read_spec(Path("specs/spec.yaml")) == {"prompts": {"system": "Be brief."}}


@pytest.mark.parametrize("tag", ["!file none.txt", "!file .", "!file logo.png", "!file zeros.bin", "!file [a, b]", "!file"])
def test_what_is_no_text_is_refused_at_its_line(tmp_path: Path, tag: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logo.png").write_bytes(b"\x89PNG\r\n\x1a\n\xff\xfe")
    (tmp_path / "zeros.bin").write_bytes(bytes(10))
    said = refused(written(tmp_path, f"name: x\nprompts:\n  system: {tag}\n"), capsys)
    assert "spec.yaml, line 3: `!file" in said
    assert f"starts at {tmp_path}" in said


def test_other_tags_stay_unknown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "not valid YAML" in refused(written(tmp_path, "name: !!python/object:os.system {}\n"), capsys)
