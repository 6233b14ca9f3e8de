"""Style sheets that only some pages need."""

from functools import cache
from pathlib import Path

from nicegui import ui


def add(name: str) -> None:
    ui.add_css(_text(name))


@cache
def _text(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
