"""The control channel on a real socketpair."""

import asyncio
import os
import socket

import pytest

from proxy.wire import until
from sidegate.proxy.channel import Channel


class End:
    def __init__(self, sock: socket.socket, welcome: bool = True) -> None:
        self.received: list[bytes] = []
        self.closed = 0
        self.channel = Channel(sock, self.received.append, self._close, largest=10_000_000, welcome=welcome)

    def _close(self) -> None:
        self.closed += 1


async def test_frames_of_any_size_arrive_whole_and_in_order() -> None:
    left, right = map(End, socket.socketpair())
    frames = [b"", b"a", os.urandom(8_000_000), b"b" * 70_000, b"c"]
    for frame in frames:
        left.channel.send(frame)
        right.channel.send(frame)
    await until(lambda: len(left.received) == len(right.received) == len(frames))
    assert left.received == right.received == frames
    left.channel.close()
    await until(lambda: right.closed == 1)
    assert left.closed == 0


async def test_descriptors_arrive_with_their_frames_and_the_senders_stay_its_own() -> None:
    left, right = map(End, socket.socketpair())
    pipes = [os.pipe() for _ in range(3)]
    for index, (_, write) in enumerate(pipes):
        left.channel.send(b"x" * 1_000_000 * index, write)
    await until(lambda: len(right.received) == 3)
    for index, (read, write) in enumerate(pipes):
        descriptor = right.channel.take_descriptor()
        os.write(descriptor, b"%d" % index)
        os.close(descriptor)
        assert os.read(read, 10) == b"%d" % index
        os.close(write)
        os.close(read)
    with pytest.raises(IndexError):
        right.channel.take_descriptor()
    left.channel.close()
    right.channel.close()


async def test_a_frame_that_cannot_be_closes_the_channel() -> None:
    ours, theirs = socket.socketpair()
    end = End(ours)
    with theirs:
        theirs.send(b"\xff\xff\xff\xff")
        await until(lambda: end.closed == 1)
    assert end.received == []


async def test_a_descriptor_that_is_not_welcome_closes_the_channel_and_is_not_kept() -> None:
    ours, theirs = socket.socketpair()
    left, right = End(ours), End(theirs, welcome=False)
    read, write = os.pipe()
    left.channel.send(b"", write)
    os.close(write)
    await until(lambda: right.closed == 1)
    assert await asyncio.to_thread(os.read, read, 1) == b""  # the last writer is gone
    os.close(read)
    left.channel.close()


async def test_descriptors_nobody_took_are_closed() -> None:
    left, right = map(End, socket.socketpair())
    read, write = os.pipe()
    left.channel.send(b"", write)
    os.close(write)
    await until(lambda: len(right.received) == 1)
    right.channel.close()
    assert await asyncio.to_thread(os.read, read, 1) == b""  # the last writer is gone
    os.close(read)
    left.channel.close()
