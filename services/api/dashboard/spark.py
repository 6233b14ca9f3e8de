"""A series so small that it stands beside a number."""

from collections.abc import Sequence

from nicegui import ui

WIDTH, HEIGHT, EDGE = 84, 22, 3


def line(values: Sequence[float], told: str) -> ui.html:
    """The last value is marked. `told` says to readers of screens what it is; the numbers are added."""
    low, high = min(values), max(values)
    reach = max(high - low, 1.0)
    step = (WIDTH - 2 * EDGE) / max(len(values) - 1, 1)
    points = [
        (EDGE + place * step, HEIGHT - EDGE - (value - low) / reach * (HEIGHT - 2 * EDGE)) for place, value in enumerate(values)
    ]
    drawn = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    x, y = points[-1]
    shown = ", ".join(f"{value:.2f}" for value in values[-12:])
    return ui.html(
        f'<svg class="spark" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" role="img" '
        f'aria-label="{told}: {shown}">'
        f"<title>{shown}</title>"
        f'<polyline points="{drawn}"/><circle cx="{x:.1f}" cy="{y:.1f}" r="2.4"/></svg>',
        sanitize=False,
        tag="span",
    )
