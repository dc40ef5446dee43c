import pytest

from bench import sysbench
from e2e.outside import left_over_flows

OUTPUT = """
    transactions:                        1234   (616.51 per sec.)
    queries:                             19744  (9864.21 per sec.)
    ignored errors:                      {errors}      (0.00 per sec.)
"""


def test_the_rate_is_of_transactions() -> None:
    assert sysbench.rate(OUTPUT.format(errors=0)) == 616.51


@pytest.mark.parametrize("output", [OUTPUT.format(errors=2), "FATAL: unable to connect", ""])
def test_a_run_with_errors_is_no_measurement(output: str) -> None:
    with pytest.raises(AssertionError, match="did not end well"):
        sysbench.rate(output)


FLOW = (
    "tcp      6 {left} {state} src=198.51.100.2 dst=198.51.100.1 sport=40000 dport=34000 "
    "src={source} dst=198.51.100.2 sport={port} dport=40000 {flags}mark=0 use=1"
)


@pytest.mark.parametrize(
    ("state", "source", "left"),
    [
        ("ESTABLISHED", "198.51.100.1", True),
        ("SYN_SENT", "198.51.100.1", True),
        ("CLOSE", "198.51.100.1", False),
        ("TIME_WAIT", "198.51.100.1", False),
        ("TIME_WAIT", "10.218.0.2", True),
        ("CLOSE", "10.218.0.2", True),
    ],
)
def test_a_connection_of_our_own_that_is_over_is_not_left_over(state: str, source: str, left: bool) -> None:
    flow = FLOW.format(left=9, state=state, source=source, port=34000, flags="[ASSURED] ")
    assert left_over_flows([flow]) == ({flow} if left else set())
