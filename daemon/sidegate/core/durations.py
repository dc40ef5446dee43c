"""Durations as people write them: 2h, 90m, "1d 12h", never."""

import re

from sidegate.errors import InvalidInputError

NEVER = ("never", "off", "0")
LONGEST = 10 * 365 * 86400

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_PARTS = re.compile("(?=[0-9])" + " *".join(f"(?:([0-9]{{1,9}}){unit})?" for unit in _UNITS))


def parse_duration(text: str) -> int:
    """Seconds; 0 for never. A number needs its unit. Raises InvalidInputError."""
    given = text.strip().lower()
    if given in NEVER:
        return 0
    match = _PARTS.fullmatch(given)
    seconds = sum(int(n) * unit for n, unit in zip(match.groups("0"), _UNITS.values(), strict=True)) if match else 0
    if not 0 < seconds <= LONGEST:
        raise InvalidInputError(f"{text!r} is not a time: write 30m, 2h, 1d12h or never; ten years at most")
    return seconds
