"""The list of runs."""

from nicegui import ui

from services.api.dashboard import shell


async def show() -> None:
    with shell.page("Runs", here="runs"):
        shell.heading("Runs", 1)
        ui.label("…")
