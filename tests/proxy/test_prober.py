"""Active health checks against scripted replicas."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

import pytest

from proxy.wire import DEADLINE, Handler, backend, closed_port, unaccepting_port, until
from sidegate.core.routes import AppRoute, Policy, Routes, Upstream
from sidegate.proxy import prober
from sidegate.proxy.prober import Prober
from sidegate.proxy.verdicts import Verdicts, asked

POLICY = Policy(health="/healthz", health_interval=1, health_timeout=60, health_rise=2, health_fall=3)


def routes(*upstreams: Upstream, resting: tuple[Upstream, ...] = (), policy: Policy = POLICY) -> Routes:
    return Routes(apps={"shop": AppRoute(upstreams, resting=resting, policy=1)}, policies=(Policy(), policy))


def at(port: int, name: str = "one") -> Upstream:
    return Upstream(name, "127.0.0.1", port, name)


@dataclass
class Probing:
    prober: Prober
    told: list[tuple[str, str]]


@contextlib.asynccontextmanager
async def probing(known: Mapping[str, str] | None = None) -> AsyncIterator[Probing]:
    told: list[tuple[str, str]] = []
    async with asyncio.TaskGroup() as tasks:
        asking = Prober(
            lambda work, name: tasks.create_task(work, name=name), lambda *words: told.append(words), known or {}
        )
        running = tasks.create_task(asking.run(), name="prober")
        try:
            yield Probing(asking, told)
        finally:
            running.cancel()


class Replica:
    """Answers what `answers` holds, the last for ever; `asked` are the heads that came."""

    def __init__(self, *answers: bytes) -> None:
        self.answers = list(answers)
        self.asked: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answers[0] if len(self.answers) == 1 else self.answers.pop(0))
        await reader.read()  # kept open: nobody waits for the end


def status(code: int) -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: 1000000\r\n\r\n" % code


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "_UNKNOWN", 0.01)


HASTY = replace(POLICY, health_interval=0.01)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        (status(200), ""),
        (status(204), ""),
        (status(302), ""),
        (b"HTTP/1.1 103 Early\r\n\r\n" + status(200), ""),
        (status(404), "/healthz answered 404"),
        (status(500), "/healthz answered 500"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "/healthz answered something that is not HTTP"),
        (b"x" * 70_000, "/healthz answered something that is not HTTP"),
    ],
)
async def test_what_an_answer_means(answer: bytes, fault: str) -> None:
    replica = Replica(answer)
    async with backend(replica) as port, probing() as place:
        place.prober.publish(routes(at(port), policy=replace(POLICY, health_fall=1)))
        await until(lambda: place.told == [("one", fault)])
    assert replica.asked[0] == (
        b"GET /healthz HTTP/1.1\r\nHost: shop\r\nUser-Agent: sidegate-health\r\nAccept: */*\r\n"
        b"Connection: close\r\n\r\n"
    )


async def test_no_answer_is_an_answer() -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    answered, unanswered = replace(POLICY, health_fall=1), replace(POLICY, health_timeout=1, health_fall=1)
    async with backend(close) as closing, backend(silence) as silent, probing() as place:
        with unaccepting_port() as hanging:
            apps = {
                "one": AppRoute((at(closed_port(), "a"), at(closing, "b")), policy=0),
                "other": AppRoute((at(silent, "c"), at(hanging, "d")), policy=1),
            }
            place.prober.publish(Routes(apps=apps, policies=(answered, unanswered)))
            await until(lambda: len({name for name, _ in place.told}) == 4)
    assert dict(place.told) == {
        "a": "refused the connection",
        "b": "closed the connection without an answer",
        "c": "did not answer within 1 s",
        "d": "did not answer within 1 s",
    }


async def test_a_mind_is_changed_after_so_many_answers() -> None:
    good, bad = status(200), status(500)
    # Well; two bad ones do not count, three do; one good one does not, two do.
    replica = Replica(good, bad, bad, good, bad, bad, bad, good, bad, good, good)
    async with backend(replica) as port, probing() as place:
        place.prober.publish(routes(at(port), policy=HASTY))
        await until(lambda: len(replica.asked) > 12)
    assert place.told == [("one", ""), ("one", "/healthz answered 500"), ("one", "")]
    assert [len(replica.answers)] == [1]


async def test_one_that_starts_is_trusted_at_its_first_good_answer() -> None:
    replica = Replica(status(503), status(503), status(503), status(500), status(200))
    async with backend(replica) as port, probing() as place:
        place.prober.publish(routes(at(port)))
        await until(lambda: len(place.told) == 3)
        assert len(replica.asked) == 5
    assert [fault for _, fault in place.told] == ["/healthz answered 503", "/healthz answered 500", ""]


async def test_one_that_was_never_asked_may_fail_as_often_as_any_other() -> None:
    replica = Replica(status(503), status(503), status(200))
    async with backend(replica) as port, probing() as place:
        place.prober.publish(routes(at(port)))
        await until(lambda: len(place.told) == 1)
    assert place.told == [("one", "")]


async def test_a_successor_goes_on_with_what_is_known() -> None:
    replica = Replica(status(500), status(500), status(500))
    async with backend(replica) as port, probing({"one": ""}) as place:
        place.prober.publish(routes(at(port), policy=HASTY))
        await until(lambda: len(place.told) == 1)
        assert len(replica.asked) >= 3
    assert place.told == [("one", "/healthz answered 500")]


async def test_resting_replicas_are_asked_and_those_without_a_path_are_not() -> None:
    replica = Replica(status(200))
    async with backend(replica) as port, probing() as place:
        place.prober.publish(routes(at(port), policy=Policy()))
        place.prober.publish(routes(resting=(at(port),)))
        await until(lambda: place.told == [("one", "")])
        assert len(replica.asked) == 1


async def test_one_that_is_gone_is_asked_no_more_and_leaves_no_task() -> None:
    came, over = asyncio.Event(), asyncio.Event()

    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        with contextlib.suppress(OSError):
            while await reader.read(65536):
                pass
        over.set()

    before = len(asyncio.all_tasks())
    async with backend(silence) as port, probing() as place:
        place.prober.publish(routes(at(port), policy=replace(POLICY, health_timeout=60)))
        async with asyncio.timeout(DEADLINE):
            await came.wait()
            place.prober.publish(Routes())
            await over.wait()
        assert place.told == []
    await until(lambda: len(asyncio.all_tasks()) == before)


async def test_many_are_not_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "_SPREAD", 0.0)
    monkeypatch.setattr(prober, "_AT_ONCE", 8)
    now, most = 0, 0

    async def count(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.001)
        now -= 1
        writer.write(status(200))

    handler: Handler = count
    async with backend(handler) as port, probing() as place:
        place.prober.publish(routes(*(at(port, f"r{number}") for number in range(200))))
        await until(lambda: len(place.told) == 200)
    assert 1 < most <= 16  # those that were hung up on are still being served


def test_verdicts_are_kept_while_they_are_asked_for() -> None:
    verdicts = Verdicts()
    published = routes(at(1, "a"), resting=(at(2, "b"),))
    assert [(app, policy.health, one.id) for app, policy, one in asked(published)] == [
        ("shop", "/healthz", "a"),
        ("shop", "/healthz", "b"),
    ]
    verdicts.publish(published)
    assert verdicts.take("a", "")
    assert verdicts.take("b", "x" * 1000)
    assert not verdicts.take("c", "")
    before = verdicts.present
    assert before == {"a": "", "b": "x" * 200}
    verdicts.publish(routes(at(1, "a")))
    assert verdicts.present == {"a": ""}
    assert len(before) == 2
