"""docs/operations.md names every setting, with its default as it is."""

import re
from datetime import timedelta

import pytest
from pydantic import SecretStr, TypeAdapter

from services.api.settings import Settings
from tests.environment import ROOT, variables_read

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
OF_OTHERS = {"TRAINING_JOB_NAME", "PYTHONPATH"}


@pytest.mark.parametrize("variable", sorted(name for name in variables_read() - OF_OTHERS if not name.endswith("_FILE")))
def test_every_variable_is_explained(variable: str) -> None:
    assert f"`{variable}`" in PAGE


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_stands_in_the_table_with_its_default(name: str) -> None:
    default, own = Settings.model_fields[name].default, Settings.model_fields[name].validation_alias
    [row] = re.findall(rf"^\| .*`{own or f'REFLUX_{name.upper()}'}`.*$", PAGE.split("| workers |")[0], re.MULTILINE)
    assert f" {written(default)} " in row.replace("`", " ")


def written(default: object) -> str:
    if isinstance(default, SecretStr):
        return default.get_secret_value()
    if isinstance(default, timedelta):
        return str(TypeAdapter(timedelta).dump_python(default, mode="json"))
    return "none" if default is None else str(default)


def test_the_decisions_have_their_four_parts() -> None:
    decisions = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert len({path.name[:4] for path in decisions}) == len(decisions), "a number is given once"
    for path in decisions:
        text = path.read_text(encoding="utf-8")
        assert text.startswith(f"# {path.name[:4]} "), path.name
        assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Context", "Decision", "Consequences", "Alternatives"], (
            path.name
        )
