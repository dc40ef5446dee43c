"""The host's firewall, as its own tools tell."""

import asyncio
import json
import shutil

from sidegate.adapters.nft.commands import Commands
from sidegate.doctor.snapshot import AS_ROOT, Firewall, Unseen, Viewer
from sidegate.errors import HostToolError

RULES = ("-w", "5", "-S")


async def look(viewer: Viewer) -> Firewall | Unseen:
    """About 20 ms; a tenth of a second with thousands of rules."""
    if not viewer.root:
        lacking = Unseen("whoever looks at the firewall needs CAP_NET_ADMIN", "Look from the host, as root.")
        return lacking if viewer.uid == 0 else Unseen("only root may look at the firewall", AS_ROOT)
    commands = Commands()
    try:
        variant, iptables = await asyncio.gather(commands.output("iptables", "-V"), commands.output("iptables", *RULES))
        legacy, ruleset = await asyncio.gather(_legacy(commands), _ruleset(commands))
    except (HostToolError, ValueError, KeyError) as error:
        return Unseen(str(error) if isinstance(error, HostToolError) else "nft's answer cannot be read")
    nf_tables = "nf_tables" in variant
    return Firewall(
        iptables=iptables,
        legacy=legacy if nf_tables else "",
        ruleset=tuple(ruleset),
        nf_tables=nf_tables,
        manager=_manager(iptables, ruleset),
    )


async def _legacy(commands: Commands) -> str:
    """What iptables-legacy has besides; listing it where it has nothing would load its modules."""
    try:
        tables = (commands.proc / "net/ip_tables_names").read_text()
        return await commands.output("iptables-legacy", *RULES) if "filter" in tables.split() else ""
    except (OSError, HostToolError):
        return ""


async def _ruleset(commands: Commands) -> list[dict[str, object]]:
    if shutil.which("nft") is None:
        return []  # which is said elsewhere
    return list(json.loads(await commands.output("nft", "-j", "-t", "list", "ruleset"))["nftables"])


def _manager(iptables: str, ruleset: list[dict[str, object]]) -> str:
    """Who else writes rules, by his chains and tables."""
    if "-N ufw-user-input" in iptables.splitlines():
        return "ufw"
    tables = [item["table"] for item in ruleset if "table" in item]
    named = any(isinstance(table, dict) and table.get("name") == "firewalld" for table in tables)
    return "firewalld" if named or "-N INPUT_direct" in iptables.splitlines() else ""
