import pytest

from sidegate.core.durations import parse_duration
from sidegate.errors import InvalidInputError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1d12h", 129600), (" 1D 12h 5m", 129900), ("never", 0), ("0", 0)],
)
def test_a_time_is_a_number_and_its_unit(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "-2h", "2 h", "1.5h", "2h1d", "11y", "9999999d", "٣h", "0h", "2h2h"])
def test_anything_else_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidInputError, match="write 30m, 2h, 1d12h or never"):
        parse_duration(text)
