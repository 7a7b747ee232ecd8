"""A line chart as one SVG file, for the docs: shares over steps, one line a curve, names once a color."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from covt_eval.report.charts.lines import Series, line_chart, spread

WIDTH, HEIGHT = 560, 320
LEFT, RIGHT, TOP, BOTTOM = 56, 236, 16, 48
LABEL_GAP = 17 / HEIGHT * 1000


@dataclass(frozen=True)
class Curve:
    """points: (x, share of 1), x ascending. name: empty for a further curve of a kind that has been named."""

    name: str
    color: str
    points: list[tuple[float, float]]
    dashed: bool = False


def draw(curves: Sequence[Curve], x_label: str, y_label: str) -> str:
    """The SVG's text."""
    chart = line_chart(y_label, "", x_label, [Series(one.name, one.color, one.points) for one in curves], share=True)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDTH + RIGHT} {TOP + HEIGHT + BOTTOM}" '
        'font-family="system-ui, sans-serif" font-size="13" fill="#374151">',
        f'<rect width="100%" height="100%" fill="#ffffff"/><title>{escape(y_label)}</title>',
        *[_grid_line(at, text) for at, text in chart.y_ticks],
        *[_x_tick(at, text) for at, text in chart.x_ticks],
        f'<text x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 40}" text-anchor="middle">{escape(x_label)}</text>',
    ]
    scale = f"translate({LEFT} {TOP}) scale({WIDTH / 1000} {HEIGHT / 1000})"
    for curve, line in zip(curves, chart.lines, strict=True):
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        parts.append(
            f'<path d="{line.path}" transform="{scale}" fill="none" stroke="{curve.color}" stroke-width="2"'
            f'{dash} vector-effect="non-scaling-stroke"/>'
        )
    named = [(curve, line) for curve, line in zip(curves, chart.lines, strict=True) if curve.name]
    places = spread([_end(line.path) for _, line in named], LABEL_GAP)
    for (curve, _), place in zip(named, places, strict=True):
        y = TOP + place / 1000 * HEIGHT + 4
        parts.append(f'<text x="{LEFT + WIDTH + 8}" y="{y:.1f}" fill="{curve.color}">{escape(curve.name)}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _end(path: str) -> float:
    return float(path.rsplit(" ", 1)[1])


def _grid_line(at: float, text: str) -> str:
    y = TOP + at / 1000 * HEIGHT
    return (
        f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#e5e7eb"/>'
        f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>'
    )


def _x_tick(at: float, text: str) -> str:
    x = LEFT + at / 1000 * WIDTH
    return f'<text x="{x:.1f}" y="{TOP + HEIGHT + 20}" text-anchor="middle">{escape(text)}</text>'
