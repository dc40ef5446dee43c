"""Who may read the state, the control socket and private keys; room on the disks."""

from collections.abc import Iterator

from sidegate.doctor.findings import Check, Told, fault, quoted, warning
from sidegate.doctor.snapshot import File, Snapshot, known

OTHERS = 0o077
NEARLY, ALL_BUT = 0.10, 0.02
"""Of a disk: left."""
LEAST, PLENTY = 200 * 10**6, 20 * 10**9
"""Bytes that are too few, and that are enough, whatever part of the disk they are."""
SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"))


def state_dir(seen: Snapshot) -> Iterator[Told]:
    found = seen.files.state_dir
    if found is None:
        return
    yield from _private(known(found), 0o700, "others may look into the state")
    yield from _owned(seen, known(found))


def state(seen: Snapshot) -> Iterator[Told]:
    for file in known(seen.files.state):
        yield from _private(file, 0o600, "it holds passwords")
        yield from _owned(seen, file)


def keys(seen: Snapshot) -> Iterator[Told]:
    for file in known(seen.files.keys):
        yield from _private(file, 0o600, "it is a private key")


def _private(file: File, mode: int, why: str) -> Iterator[Told]:
    if file.mode & OTHERS:
        yield fault(
            f"{file.path} has mode {file.mode:04o}, and {why}: {mode:04o} is right",
            command=f"chmod {mode:o} {quoted(file.path)}",
        )


def _owned(seen: Snapshot, file: File) -> Iterator[Told]:
    """By whoever runs the daemon: root, or an ordinary user who looks at his own."""
    if file.uid not in (0, seen.viewer.uid, seen.daemon.uid):
        yield fault(
            f"{file.path} belongs to uid {file.uid}, who can change what the daemon does",
            command=f"chown {seen.viewer.uid}: {quoted(file.path)}",
        )


def control(seen: Snapshot) -> Iterator[Told]:
    if seen.files.control is None:
        return
    file = known(seen.files.control)
    path = quoted(file.path)
    if file.mode & 0o007:
        yield fault(f"{file.path} has mode {file.mode:04o}: anybody may drive the daemon", command=f"chmod 660 {path}")
    elif file.mode & 0o660 != 0o660:
        yield warning(f"{file.path} has mode {file.mode:04o}: its group may not use it", command=f"chmod 660 {path}")
    if seen.files.control_group and file.uid == 0 and file.group != "sidegate":
        yield warning(f"{file.path} is for the group {file.group}", command=f"chgrp sidegate {path}")


def disk(seen: Snapshot) -> Iterator[Told]:
    for room in seen.limits.disks:
        what = f"the disk of {room.what} ({room.path})"
        for kind, left, total in (("bytes", room.free, room.size), ("inodes", room.inodes_free, room.inodes)):
            if not total or left > NEARLY * total or (kind == "bytes" and left > PLENTY):
                continue
            share = f"{_size(left) if kind == 'bytes' else f'{left} inodes'} left, {100 * left / total:.0f} %"
            told = fault if left < ALL_BUT * total or (kind == "bytes" and left < LEAST) else warning
            yield told(
                f"{what} is nearly full: {share}",
                command="docker system df",
                advice="`docker system prune` removes what nothing uses; a full disk loses databases their writes.",
            )


def _size(count: int) -> str:
    for unit, name in SIZES:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count} bytes"


CHECKS = (
    Check("state-dir", "state_dir is its owner's alone (0700)", state_dir),
    Check("state-file", "sidegate.db is its owner's alone (0600)", state),
    Check("control-socket", "the control socket is for its owner and its group (0660)", control),
    Check("keys", "private keys, the local authority's among them, are their owner's alone (0600)", keys),
    Check("disk", "the disks of state_dir and of the engine have room, in bytes and in inodes", disk),
)
