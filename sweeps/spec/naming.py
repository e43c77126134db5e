"""How counts, times, sizes and settings are written for a person, and what a name may be. Knows no plan."""

import re
import zlib
from numbers import Integral, Real

from sweeps.spec.fields import SHORT_NAMES
from sweeps.spec.space import TYPED_DIGITS, Value

LONGEST = 60  # characters of a text that is a value; of a longer one so many, and a digest of it


def counted(number: int, what: str) -> str:
    """`1 run`, `2,000 runs`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `2 h 05 min`."""
    if seconds < 90:
        return f"{max(0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(num_bytes: int | None) -> str:
    """`1.2 MB`; a hyphen for what is not known."""
    if num_bytes is None:
        return "-"
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:,.1f} {unit}"
    return f"{num_bytes} B"


def setting_label(setting: dict[str, Value]) -> str:
    """`lr=3e-4 warmup=0.1`: short, for names and legends."""
    return " ".join(f"{SHORT_NAMES.get(name, name)}={short(value)}" for name, value in setting.items()) or "base"


def short(value: object) -> str:
    """A value as a label: 3e-4, 0.9995, 64, none. One with more than six digits, as a search draws them, has three.

    A long text is cut, and told from others by a digest.
    """
    if value is None:
        return "none"
    if isinstance(value, bool) or not isinstance(value, Real):
        text = str(value)
        return text if len(text) <= LONGEST else f"{text[:LONGEST]}…{zlib.crc32(text.encode()):08x}"
    number = float(value)
    digits = len(repr(number).partition("e")[0].replace(".", "").strip("-0"))
    if isinstance(value, Integral) and (abs(number) < 1e6 or 3 < digits <= 9):
        return str(value)
    shown = max(3, digits) if digits <= TYPED_DIGITS else 3
    if number and not 0.01 <= abs(number) < 1e6:
        mantissa, exponent = f"{number:.{shown - 1}e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    text = f"{number:.{shown}g}"
    return f"{float(text):.0f}" if "e" in text else text


def check_name(name: str) -> str:
    """The name of a sweep, which becomes a folder's name. ValueError where it can't."""
    if not re.fullmatch(r"(?![.-])[A-Za-z0-9_.-]{1,100}", name):
        raise ValueError(
            f"sweep name {name!r}: allowed are 1 to 100 letters, digits, '_', '.', '-', first none of '.-'"
        )
    return name
