"""Numbers the way a reader wants them: no more digits than they are worth, and units in words."""

import math

MINUS = "\N{MINUS SIGN}"
MISSING = "–"


def number(value: float | None, unit: str = "") -> str:
    """A measured value: three decimals below 10, fewer above. `number(0.81249)` is "0.812"."""
    if value is None or not math.isfinite(value):
        return MISSING
    size = abs(value)
    if size >= 1e4:
        text = si(value)
    elif 0 < size < 0.001:
        text = f"{value:.2g}"
    else:
        text = f"{value:.{3 if size < 10 else 2 if size < 100 else 1}f}"
    return (text.replace("-", MINUS) + f" {unit}").strip()


def signed(value: float | None, unit: str = "") -> str:
    """A difference, with its sign: `signed(0.0214)` is "+0.021"."""
    text = number(value, unit)
    return f"+{text}" if value is not None and math.isfinite(value) and value > 0 else text


def si(value: float | None) -> str:
    """A count with a prefix: `si(1_234_000)` is "1.23 M"."""
    if value is None or not math.isfinite(value):
        return MISSING
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:.4g}"


def duration(seconds: float) -> str:
    """A time in the unit one would say it in: "45 s", "12.5 min", "3.4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def count(quantity: int, noun: str, plural: str = "") -> str:
    """`count(1, "trial")` is "1 trial", `count(2, "trial")` "2 trials"."""
    return f"{quantity:,} {noun if quantity == 1 else plural or noun + 's'}"
