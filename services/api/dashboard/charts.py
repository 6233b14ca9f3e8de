"""What the charts of all pages have in common: drawn as SVG, so that colours follow the look and words stay text."""

from collections.abc import Sequence
from typing import Any

from nicegui import ui

COLOURS = tuple(f"var(--series-{number})" for number in range(1, 7))
QUIET = "var(--quiet)"
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif'  # its words are measured before they are drawn
Points = list[list[float | None]]


def options(series: Sequence[dict[str, Any]], *, x: str, whole_x: bool = False, top: float | None = None) -> dict[str, Any]:
    """Lines over numbers. `top` is the end of the y-axis where it has one, from 0."""
    axis = {"nameTextStyle": {"color": QUIET}, "axisLabel": {"color": QUIET, "hideOverlap": True}, "splitLine": {"show": False}}
    scale = {"min": 0, "max": top} if top is not None else {"scale": True}
    return {
        "animation": False,
        "color": list(COLOURS),
        "textStyle": {"fontFamily": FONT},
        "grid": {"left": 48, "right": 20, "top": 34, "bottom": 42},
        "legend": {
            "type": "scroll",
            "top": 4,
            "left": 0,
            "itemWidth": 14,
            "itemHeight": 8,
            "icon": "roundRect",
            "textStyle": {"color": QUIET},
            "pageIconColor": QUIET,
            "pageTextStyle": {"color": QUIET},
        },
        "tooltip": {
            "trigger": "axis",
            "confine": True,
            "backgroundColor": "var(--card)",
            "borderColor": "var(--line)",
            "textStyle": {"color": "var(--text)", "fontSize": 12},
            "axisPointer": {"label": {"show": False}, "lineStyle": {"color": QUIET}},
        },
        "xAxis": {
            **axis,
            **({"minInterval": 1, "min": 1} if whole_x else {"min": 0}),
            "type": "value",
            "name": x,
            "nameLocation": "middle",
            "nameGap": 26,
            "axisLine": {"lineStyle": {"color": "var(--line)"}},
        },
        "yAxis": {**axis, **scale, "type": "value", "splitLine": {"lineStyle": {"color": "var(--line)"}}},
        "series": list(series),
    }


def line(
    key: str, name: str, data: Points, *, symbols: bool = False, dashed: bool = False, at: float | None = None
) -> dict[str, Any]:
    """A series. `at` draws a line across, where something is to be reached."""
    made: dict[str, Any] = {
        "id": key,
        "name": name,
        "type": "line",
        "data": data,
        "showSymbol": symbols,
        "symbolSize": 6,
        "lineStyle": {"width": 2, "type": "dashed" if dashed else "solid"},
        "emphasis": {"disabled": True},
    }
    if at is not None:
        label = {"formatter": "aim {c}", "position": "insideStartTop", "color": QUIET}
        made["markLine"] = {
            "silent": True,
            "symbol": "none",
            "lineStyle": {"color": QUIET, "type": "dotted"},
            "label": label,
            "data": [{"yAxis": at}],
        }
    return made


def chart(title: str, drawn: dict[str, Any], css: str = "chart") -> ui.echart:
    made = ui.echart(drawn, renderer="svg").classes(css)
    made.props["role"] = "img"
    made.props["aria-label"] = title
    return made
