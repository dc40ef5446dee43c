"""Process 1 reaps what nobody else waits for, and leaves others' children to them."""

import asyncio
import os
import subprocess
import sys

from sidegate.adapters.orphans import reap


def zombie() -> int:
    """A child that has ended, and that nobody will wait for."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_an_orphan_is_reaped_and_a_child_that_is_waited_for_is_not_taken_away() -> None:
    task = asyncio.create_task(reap(0.01))
    orphan = zombie()
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", "raise SystemExit(7)", stdin=subprocess.DEVNULL)
    async with asyncio.timeout(20):
        assert await child.wait() == 7
        while exists(orphan):
            await asyncio.sleep(0.01)
    task.cancel()
