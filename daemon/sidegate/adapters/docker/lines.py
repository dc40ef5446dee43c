"""Lines of a stream that comes in pieces. Pure."""

from collections.abc import Iterable, Iterator


def whole_lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Lines as they end, without their ends; what has no end is none.

    Each byte is looked at once, however long the line: an event carries all labels of its container, which may be
    megabytes, and `Response.iter_lines` copies what it has for every 512 bytes more.
    """
    begun: list[bytes] = []
    for piece in pieces:
        first, *others = piece.split(b"\n")
        begun.append(first)
        for other in others:
            yield b"".join(begun)
            begun = [other]
