"""The host's firewall, as its own tools tell."""

import asyncio
import json
import shutil

from sidegate.adapters.host import CHAIN
from sidegate.adapters.nft.commands import Commands
from sidegate.doctor.snapshot import AS_ROOT, Firewall, Unseen, Viewer
from sidegate.errors import HostToolError

RULES = ("-w", "5", "-S")
LOOKS, PAUSE_SECONDS = 8, 0.25
"""At most so many, where it looks as if Docker were changing its rules: it is done within milliseconds."""


async def look(viewer: Viewer) -> Firewall | Unseen:
    """About 20 ms; a tenth of a second with thousands of rules; two seconds where FORWARD does not lead to Docker's
    chain first."""
    if not viewer.root:
        lacking = Unseen("whoever looks at the firewall needs CAP_NET_ADMIN", "Look from the host, as root.")
        return lacking if viewer.uid == 0 else Unseen("only root may look at the firewall", AS_ROOT)
    commands = Commands()
    try:
        variant, iptables = await asyncio.gather(commands.output("iptables", "-V"), _iptables(commands))
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


async def _iptables(commands: Commands) -> str:
    """At each change of a network Docker takes its jumps out of FORWARD and puts them back, which is no fault."""
    for _ in range(LOOKS - 1):
        listing = await commands.output("iptables", *RULES)
        lines = listing.splitlines()
        first = next((line for line in lines if line.startswith("-A FORWARD ")), "")
        if f"-N {CHAIN}" not in lines or first == f"-A FORWARD -j {CHAIN}":
            return listing
        await asyncio.sleep(PAUSE_SECONDS)
    return await commands.output("iptables", *RULES)


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
