"""However the bytes arrive, the proxy takes from them what h11 takes, and hands on the same."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable

import uvloop
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from proxy.generated import (
    Message,
    ResponseReader,
    Sent,
    end_to_end,
    length,
    read_requests,
    requests,
    responses,
)
from proxy.recording import OK, Recorder, recording
from proxy.wire import DEADLINE, Client, Handler, Proxy, backend, proxying

# A failing example is not made smaller: one takes up to a second, and a shrink thousands.
FEW = settings(
    deadline=None,
    derandomize=True,
    max_examples=8,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
MORE = settings(FEW, max_examples=15)


def run(test: Callable[[], Awaitable[None]]) -> None:
    """One example: hypothesis calls plain functions."""

    async def main() -> None:
        await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


def cut(raw: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % len(raw) for place in places} - {0}), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


async def write(writer: asyncio.StreamWriter, pieces: list[bytes]) -> None:
    """Each in a packet of its own: the other end, in this very loop, gets its turn after each."""
    for piece in pieces:
        writer.write(piece)
        for _ in range(3):
            await asyncio.sleep(0)


# --- requests ---------------------------------------------------------------------------------------------------------


def check_request(got: Message, sent: Message, count: int) -> None:
    """What the app read against what h11 reads in what the client sent."""
    assert got.start == sent.start
    assert end_to_end(got.fields) == end_to_end(sent.fields)
    assert length(got.fields) == length(sent.fields)
    assert (got.body, got.trailers) == (sent.body, sent.trailers)
    assert len([name for name, _ in got.fields if name == b"x-request-id"]) == 1, count


async def ask(app: Recorder, client: Client, sent: Sent, pieces: list[bytes], expected: Message) -> None:
    before = len(app.requests)
    await write(client.writer, pieces)
    assert await client.exactly(len(OK) - 5) == OK[:-5]
    if sent.method != b"HEAD":
        assert await client.exactly(5) == OK[-5:]
    (request,) = app.requests[before:]
    got = Message((request.method, request.target), request.headers, request.body, request.trailers)
    check_request(got, expected, before)


def answer_of(sent: Sent) -> bytes:
    return OK[:-5] if sent.method == b"HEAD" else OK


@FEW
@given(requests())
def test_a_request_cut_anywhere_is_the_request_that_h11_reads(sent: Sent) -> None:
    (expected,) = read_requests(sent.raw)

    async def example() -> None:
        async with recording(answer_of(sent)) as app, proxying(app.port) as proxy, await proxy.client() as client:
            for place in range(len(sent.raw)):
                await ask(app, client, sent, cut(sent.raw, [place]), expected)
            await ask(app, client, sent, cut(sent.raw, list(range(len(sent.raw)))), expected)
            assert proxy.errors == []

    run(example)


@MORE
@given(requests(most=5000), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_larger_request_cut_at_some_places_too(sent: Sent, places: list[int]) -> None:
    (expected,) = read_requests(sent.raw)

    async def example() -> None:
        async with recording(answer_of(sent)) as app, proxying(app.port) as proxy, await proxy.client() as client:
            for _ in range(2):
                await ask(app, client, sent, cut(sent.raw, places), expected)

    run(example)


@MORE
@given(st.lists(requests().filter(lambda sent: sent.method != b"HEAD"), min_size=2, max_size=6), st.data())
def test_pipelined_requests_cut_anywhere_stay_apart(sent: list[Sent], data: st.DataObject) -> None:
    raw = b"".join(one.raw for one in sent)
    expected = read_requests(raw)
    places = data.draw(st.lists(st.integers(0, len(raw)), max_size=10))

    async def example() -> None:
        async with recording() as app, proxying(app.port) as proxy, await proxy.client() as client:
            await write(client.writer, cut(raw, places))
            assert await client.exactly(len(OK) * len(sent)) == OK * len(sent)
            # One that must not be repeated takes no connection that has waited, so there may be several.
            found = [
                Message((request.method, request.target), request.headers, request.body, request.trailers)
                for request in app.requests
            ]
            order = [one.start for one in expected]
            for count, one in enumerate(expected):
                same = [got for got in found if got.start == one.start]
                assert len(same) == order.count(one.start)
                if len(same) == 1:
                    check_request(same[0], one, count)

    run(example)


# --- responses --------------------------------------------------------------------------------------------------------


async def receive(client: Client, method: bytes) -> Message:
    reader = ResponseReader(method)
    async with asyncio.timeout(DEADLINE):
        while not reader.message.complete:
            reader.feed(await client.reader.read(65536))
    return reader.message


def read_response(sent: Sent) -> Message:
    reader = ResponseReader(sent.method)
    reader.feed(sent.raw)
    if not reader.message.complete:
        reader.feed(b"")
    assert reader.message.complete
    return reader.message


async def pass_on(proxy: Proxy, sent: Sent, expected: Message) -> None:
    async with await proxy.client() as client:
        client.writer.write(sent.method + b" / HTTP/1.1\r\nHost: shop.test\r\n\r\n")
        got = await receive(client, sent.method)
    assert got.start == expected.start
    added = [] if b"date" in dict(expected.fields) else [b"date"]
    assert [name for name, _ in got.fields if name in added] == added
    assert end_to_end([field for field in got.fields if field[0] not in added]) == end_to_end(expected.fields)
    assert (got.body, got.trailers) == (expected.body, expected.trailers)
    assert [(status, end_to_end(fields)) for status, fields in got.interim] == [
        (status, end_to_end(fields)) for status, fields in expected.interim
    ]


class Cutting:
    """A backend that sends the same response again and again, each time in the next pieces."""

    def __init__(self, sent: Sent, ways: list[list[bytes]]) -> None:
        self.sent = sent
        self.ways = iter(ways)

    @property
    def handler(self) -> Handler:
        return self._serve

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await reader.readuntil(b"\r\n\r\n")
            await write(writer, next(self.ways))
            if self.sent.ends:
                return


def check_responses(sent: Sent, ways: list[list[bytes]]) -> None:
    expected = read_response(sent)

    async def example() -> None:
        app = Cutting(sent, ways)
        async with backend(app.handler) as port, proxying(port) as proxy:
            for _ in ways:
                await pass_on(proxy, sent, expected)

    run(example)


@FEW
@given(responses())
def test_a_response_cut_anywhere_is_the_response_that_h11_reads(sent: Sent) -> None:
    raw = sent.raw
    check_responses(sent, [*(cut(raw, [place]) for place in range(len(raw))), cut(raw, list(range(len(raw))))])


@MORE
@given(responses(most=5000), st.lists(st.integers(0, 10_000), max_size=8))
def test_a_larger_response_cut_at_some_places_too(sent: Sent, places: list[int]) -> None:
    check_responses(sent, [cut(sent.raw, places), cut(sent.raw, places)])
