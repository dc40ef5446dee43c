import pytest

from bench.load import wrk_rate

FINE = """Running 1h test @ http://127.0.0.1:1/
  1 threads and 32 connections
  12345 requests in 1.00s, 1.00MB read
Requests/sec:  12345.67
Transfer/sec:      1.00MB
"""


def test_the_rate_is_read_from_what_wrk_prints() -> None:
    assert wrk_rate("http://127.0.0.1:1/", FINE) == 12345.67


@pytest.mark.parametrize(
    "line", ["  Socket errors: connect 0, read 1, write 0, timeout 0\n", "  Non-2xx or 3xx responses: 7\n"]
)
def test_a_run_with_errors_is_no_measurement(line: str) -> None:
    with pytest.raises(AssertionError, match="did not answer every request"):
        wrk_rate("http://127.0.0.1:1/", FINE.replace("Requests/sec", line + "Requests/sec"))


def test_nor_is_one_without_a_rate() -> None:
    with pytest.raises(AssertionError, match="unable to connect"):
        wrk_rate("http://127.0.0.1:1/", "unable to connect to 127.0.0.1:1 Connection refused\n")
