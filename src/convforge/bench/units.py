"""Numbers as people read them."""

from __future__ import annotations


def seconds(value: float) -> str:
    """Three digits and a unit: ``1.23 ms``."""
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= scale * 0.9995:
            return f"{three(value / scale)} {unit}"
    return f"{three(value / 1e-9)} ns"


def size(nbytes: int) -> str:
    """Bytes in powers of 1024: ``1.5 MiB``."""
    value = float(nbytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1000 or unit == "GiB":
            break
        value /= 1024
    return f"{nbytes} B" if unit == "B" else f"{three(value)} {unit}"


def three(value: float) -> str:
    """Three significant digits, or all of a whole number."""
    return f"{value:.0f}" if value >= 99.95 else f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
