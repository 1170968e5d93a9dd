"""Curves of labelled answers: as tables with bars in the terminal, and as one SVG file."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from synaptoroute.cli.terminal import number, print_table
from synaptoroute.learning.curves import CurvePoint, ReliabilityBin

BAR_CELLS: Final = 20
SHOWN_MAX: Final = 11
_WIDTH, _HEIGHT, _LEFT, _TOP = 300, 220, 48, 34
_GAP: Final = 90
_COLORS: Final = ("#1f6feb", "#d1242f", "#1a7f37", "#8250df")


def bar(share: float | None) -> str:
    """A share as a bar of up to ``BAR_CELLS`` cells."""
    return "" if share is None else "█" * round(share * BAR_CELLS)


def print_curve(points: Sequence[CurvePoint], name: str) -> None:
    """Print coverage against accuracy, at most ``SHOWN_MAX`` limits."""
    step = max(1, -(-len(points) // SHOWN_MAX))
    print_table(
        (f"least {name}", "answered", "right of these", "right of all", "coverage", "accuracy"),
        (
            (
                number(point.limit),
                number(point.coverage),
                number(point.accuracy),
                number(point.right),
                bar(point.coverage),
                (bar(point.accuracy), "ok"),
            )
            for point in points[::step]
        ),
        title="Coverage against accuracy",
        right=(f"least {name}", "answered", "right of these", "right of all"),
    )


def print_reliability(bins: Sequence[ReliabilityBin]) -> None:
    """Print confidence against accuracy, bin by bin."""
    print_table(
        ("confidence", "texts", "mean", "right", "confidence said", "it was"),
        (
            (
                f"{each.low:.1f} to {each.high:.1f}",
                str(each.count),
                number(each.confidence),
                number(each.accuracy),
                bar(each.confidence),
                (bar(each.accuracy), "ok"),
            )
            for each in bins
        ),
        title="Reliability",
        right=("texts", "mean", "right"),
    )


# --- SVG ---------------------------------------------------------------------------------


def svg_of(
    points: Sequence[CurvePoint],
    bins: Sequence[ReliabilityBin],
    *,
    name: str,
    title: str,
    marked: float | None = None,
) -> str:
    """Draw the curve, and beside it the reliability diagram if there are bins.

    Args:
        name: What the limits are: ``confidence`` or ``threshold``.
        marked: A limit to mark, such as the one in use.
    """
    width = _LEFT + _WIDTH + 24 + ((_GAP + _WIDTH) if bins else 0)
    height = _TOP + _HEIGHT + 64
    low, high = (0.0, 1.0) if name == "confidence" else _range_of(points)
    curves: tuple[tuple[str, list[tuple[float, float | None]]], ...] = (
        ("answered", [(each.limit, each.coverage) for each in points]),
        ("right of these", [(each.limit, each.accuracy) for each in points]),
        ("right of all", [(each.limit, each.right) for each in points]),
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(_LEFT, 18, title, size=13),
        *_axes(_LEFT, low, high, f"least {name}"),
    ]
    for place, (label, values) in enumerate(curves):
        color = _COLORS[place]
        known = [(limit, value) for limit, value in values if value is not None]
        parts.append(_line(_LEFT, known, low, high, color))
        parts.append(_text(_LEFT + 100 * place, _TOP + _HEIGHT + 52, label, fill=color))
    if marked is not None and low <= marked <= high:
        at = _x(_LEFT, marked, low, high)
        parts.append(
            f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{_TOP + _HEIGHT}"'
            ' stroke="#57606a" stroke-dasharray="4 3"/>'
        )
    if bins:
        parts += _reliability(bins, _LEFT + _WIDTH + _GAP)
    return "\n".join((*parts, "</svg>", ""))


def _range_of(points: Sequence[CurvePoint]) -> tuple[float, float]:
    low = min((each.limit for each in points), default=0.0)
    high = max((each.limit for each in points), default=1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _reliability(bins: Sequence[ReliabilityBin], left: int) -> list[str]:
    parts = _axes(left, 0.0, 1.0, "confidence")
    parts.append(_line(left, [(0.0, 0.0), (1.0, 1.0)], 0.0, 1.0, "#8c959f"))
    for each in bins:
        x = _x(left, each.low, 0.0, 1.0)
        y = _y(each.accuracy)
        wide = (each.high - each.low) * _WIDTH - 2
        parts.append(
            f'<rect x="{x + 1:.1f}" y="{y:.1f}" width="{wide:.1f}"'
            f' height="{_TOP + _HEIGHT - y:.1f}" fill="{_COLORS[0]}" fill-opacity="0.35">'
            f"<title>{each.count} texts: confidence {each.confidence:.3f}, "
            f"right {each.accuracy:.3f}</title></rect>"
        )
        at = _x(left, each.confidence, 0.0, 1.0)
        parts.append(f'<circle cx="{at:.1f}" cy="{y:.1f}" r="3" fill="{_COLORS[0]}"/>')
    parts.append(_text(left, _TOP + _HEIGHT + 52, "right, by confidence", fill=_COLORS[0]))
    return parts


def _axes(left: int, low: float, high: float, label: str) -> list[str]:
    bottom = _TOP + _HEIGHT
    parts = [
        f'<rect x="{left}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none"'
        ' stroke="#d0d7de"/>',
        _text(left + _WIDTH // 2, bottom + 34, label, anchor="middle"),
    ]
    for step in range(5):
        share = step / 4
        y, value = _y(share), low + share * (high - low)
        parts.append(
            f'<line x1="{left}" x2="{left + _WIDTH}" y1="{y:.1f}" y2="{y:.1f}" stroke="#eaeef2"/>'
        )
        parts.append(_text(left - 6, y + 4, f"{share:.2f}", anchor="end"))
        parts.append(
            _text(_x(left, value, low, high), bottom + 16, f"{value:.2f}", anchor="middle")
        )
    return parts


def _x(left: int, value: float, low: float, high: float) -> float:
    return left + _WIDTH * (value - low) / (high - low)


def _y(share: float) -> float:
    return _TOP + _HEIGHT * (1.0 - share)


def _line(
    left: int, values: Sequence[tuple[float, float]], low: float, high: float, color: str
) -> str:
    points = " ".join(f"{_x(left, at, low, high):.1f},{_y(value):.1f}" for at, value in values)
    return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="2"/>'


def _text(
    x: float, y: float, text: str, *, size: int = 11, anchor: str = "start", fill: str = "#24292f"
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}"'
        f' fill="{fill}">{escape(text)}</text>'
    )
