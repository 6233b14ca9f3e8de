"""Spec files as the commands read them: YAML, with `${here}` and `!file PATH`."""

from pathlib import Path
from string import Template
from typing import Any

import typer
import yaml

from reflux.cli import output


def read_spec(path: Path) -> dict[str, Any]:
    """A YAML spec. `${here}` in it stands for the folder that it lies in, `!file notes.txt` for the text of a file there.

    What is wrong with the file is printed; exit 2.
    """

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!file", lambda _, node: _text_of(node, path))
    try:
        text = path.read_text(encoding="utf-8")
        spec = yaml.load(Template(text).safe_substitute(here=path.resolve().parent), Loader)  # noqa: S506 - a SafeLoader
    except (OSError, UnicodeDecodeError) as error:
        output.err(f"{path} can't be read: {error}", "Name a YAML file.")
        raise typer.Exit(2) from error
    except yaml.YAMLError as error:
        output.err(f"{path} is not valid YAML: {error}", "Correct the line that is named.")
        raise typer.Exit(2) from error
    if not isinstance(spec, dict):
        output.err(
            f"{path} is not a spec: it is a {type(spec).__name__}, not a mapping.", "Look at examples/automotive/demo.yaml."
        )
        raise typer.Exit(2)
    return spec


def _text_of(node: yaml.Node, spec: Path) -> str:
    """The UTF-8 text that `!file PATH` in `spec` names, without the line ends after its last line."""
    hint = f"Name a text file in UTF-8. A relative path starts at {spec.resolve().parent}."
    where = f"{spec}, line {node.start_mark.line + 1}: `!file"
    if not isinstance(node, yaml.ScalarNode) or not node.value:
        output.err(f"{where}` needs the path of one file.", hint)
        raise typer.Exit(2)
    try:
        text = spec.resolve().parent.joinpath(Path(node.value).expanduser()).read_text(encoding="utf-8-sig")
    except OSError as error:
        output.err(f"{where} {node.value}` can't be read: {error.strerror}.", hint)
        raise typer.Exit(2) from error
    except ValueError:  # no UTF-8, or a path that no file can have
        text = "\0"
    if "\0" in text:
        output.err(f"{where} {node.value}` is not text.", hint)
        raise typer.Exit(2)
    return text.rstrip("\n")
