"""A line chart as SVG, without a library: some curves over one axis."""

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 720, 300
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 34, 44
COLOURS = ("#1f6feb", "#d1242f", "#1a7f37", "#9a6700")


def ticks(highest: float, wanted: int = 5) -> list[float]:
    """Round numbers from 0 to a little above the highest."""
    raw = max(highest, 1e-9) / wanted
    unit = 10.0 ** len(str(int(raw))) / 10 if raw >= 1 else 0.1
    step = next(unit * each for each in (1, 2, 2.5, 5, 10, 20) if unit * each >= raw)
    return [step * number for number in range(int(-(-highest // step)) + 1)]


def short(value: float) -> str:
    """A number for an axis: 250000 is 250 K."""
    for size, letter in ((1e6, " M"), (1e3, " K")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def chart(
    title: str, across: str, xs: Sequence[float], curves: Mapping[str, Sequence[float]]
) -> str:
    """Draw curves from 0 upwards.

    Args:
        title: Above it; says what is drawn and in which unit.
        across: What the x axis is.
        xs: The places on it, rising.
        curves: By name, a value for each place.
    """
    marks = ticks(max(max(ys) for ys in curves.values()))
    top = marks[-1] or 1.0

    def x(value: float) -> float:
        span = (xs[-1] - xs[0]) or 1
        return LEFT + (value - xs[0]) / span * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / top * (HEIGHT - TOP - BOTTOM)

    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="18" font-size="14">{escape(title)}</text>',
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{escape(across)}</text>',
    ]
    for mark in marks:
        drawn.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(mark):.1f}" y2="{y(mark):.1f}" '
            'stroke="#d0d7de"/>'
            f'<text x="{LEFT - 8}" y="{y(mark) + 4:.1f}" text-anchor="end">{short(mark)}</text>'
        )
    for place in xs[:: max(1, len(xs) // 10)]:
        drawn.append(
            f'<text x="{x(place):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{short(place)}</text>"
        )
    for number, (name, ys) in enumerate(curves.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))
        drawn.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        drawn.append(
            f'<text x="{WIDTH - RIGHT - 150 * number}" y="18" text-anchor="end" fill="{colour}">'
            f"{escape(name)}</text>"
        )
    return "\n".join((*drawn, "</svg>\n"))
