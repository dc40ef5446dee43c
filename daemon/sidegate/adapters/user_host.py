"""The machine as an ordinary user may look at it: not its firewall, and nothing inside containers."""

from dataclasses import replace

from sidegate.adapters.host import LinuxHost
from sidegate.core.model import HostState


class UserHost(LinuxHost):
    """Knows routes and processes. What takes root is never tried, and so nothing that could be mended is missing."""

    async def observe(self) -> HostState:
        return replace(await super().observe(), fast_path=None, fast_path_fault="", cut_fault="", lost=())

    async def remove_fast_path(self) -> None:
        """There is none."""

    async def _fast_path(self) -> tuple[bool | None, str]:
        return None, ""
