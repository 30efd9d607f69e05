"""A drawing as inline SVG, and logarithmic axes: as much as the charts of a report need."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

_DIGITS = (1, 2, 5)


@dataclass(frozen=True)
class LogAxis:
    """Positive values on a logarithmic scale.

    Attributes
    ----------
    low, high
        The values at the ends.
    start, end
        Where the ends are drawn; ``end`` may be less than ``start``.
    """

    low: float
    high: float
    start: float
    end: float

    @classmethod
    def around(cls, values: list[float], start: float, end: float, margin: float = 1.15) -> LogAxis:
        """An axis that holds all values."""
        low, high = min(values, default=1.0) / margin, max(values, default=1.0) * margin
        return cls(low, high, start, end)

    def __call__(self, value: float) -> float:
        """Where a value is drawn; beyond the ends, at the end."""
        share = log10(min(max(value, self.low), self.high) / self.low) / log10(self.high / self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """1, 2 and 5 times powers of ten, or the powers alone where these are many."""
        decades = range(floor(log10(self.low)), ceil(log10(self.high)) + 1)
        digits = _DIGITS if len(decades) <= 5 else (1,)
        values = [digit * 10.0**decade for decade in decades for digit in digits]
        return [value for value in values if self.low <= value <= self.high]


class Drawing:
    """SVG elements, by CSS class; ``str()`` is the element."""

    def __init__(self, width: float, height: float, title: str) -> None:
        self._head = (
            f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" '
            f'aria-label="{escape(title)}">'
        )
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        """A straight line."""
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>')

    def bar(self, x1: float, x2: float, y: float, height: float, kind: str, tip: str) -> None:
        """A horizontal bar between two places, with a tip for the mouse."""
        left, width = min(x1, x2), max(abs(x2 - x1), 1.0)
        self._parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{kind}">'
            f"<title>{escape(tip)}</title></rect>"
        )

    def dot(self, x: float, y: float, kind: str, tip: str) -> None:
        """A dot with a tip for the mouse."""
        self._parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" class="{kind}"><title>{escape(tip)}</title></circle>'
        )

    def text(self, x: float, y: float, words: str, anchor: str = "start", kind: str = "") -> None:
        """Words that start, end or are centred ("middle") at a place."""
        self._parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{kind}">{escape(words)}</text>'
        )

    def __str__(self) -> str:
        """Return the SVG element."""
        return "\n".join([self._head, *self._parts, "</svg>"])
