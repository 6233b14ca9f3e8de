"""docs/cli.md, out of the commands themselves. Run as a module, it prints it."""

import sys
from collections.abc import Iterator
from typing import Any

import typer

from reflux.cli import app
from reflux.cli.output import EXIT_CODES

HEAD = """# The command line

Made from the code: `python -m reflux.cli.reference > docs/cli.md`. Every command tells the same with `--help`.

The commands talk to the API that `REFLUX_URL` and `REFLUX_KEY` name; without them, to the stack that `reflux up` runs in this
folder. What a script may read is printed by `--json` to standard output; what went wrong, and what to do, goes to standard error.
Without a terminal there are no bars and no colours; `NO_COLOR=1` takes the colours in a terminal too.

`reflux --install-completion` teaches your shell (bash, zsh, fish, PowerShell) the commands, their options, and the ids of the
newest runs; open a new shell then. `reflux --show-completion` prints what it would install.

| exit code | |
|---|---|
"""


def document() -> str:
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return HEAD + codes + "".join(f"\n{part}\n" for part in _parts())


def commands() -> Iterator[tuple[str, Any, Any]]:
    """Path, command and context of every command that does something."""
    root = typer.main.get_command(app)
    yield from _below("reflux", root, root.context_class(root, info_name="reflux"))


def _below(path: str, command: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield path, command, context
    for name, child in (inner or {}).items():
        yield from _below(f"{path} {name}", child, child.context_class(child, info_name=name, parent=context))


def _parts() -> Iterator[str]:
    for path, command, context in commands():
        rows = [row for parameter in command.get_params(context) if (row := parameter.get_help_record(context))]
        yield f"## {path}"
        yield "\n\n".join(" ".join(paragraph.split()) for paragraph in command.help.split("\n\n"))
        yield f"```\n{' '.join(command.get_usage(context).split()).removeprefix('Usage: ')}\n```"
        shown = [row for row in rows if row[0] != "--help"]
        if shown:
            yield "| | |\n|---|---|\n" + "\n".join(f"| `{_cell(name)}` | {_cell(told)} |" for name, told in shown)
        yield "```sh\n" + "\n".join(examples_of(command)) + "\n```"


def examples_of(command: Any) -> list[str]:
    return [line.strip() for line in (command.epilog or "").splitlines() if line.startswith("  ")]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(document())
