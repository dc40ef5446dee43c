"""All checks, by group, in the order in which they are shown. docs/doctor.md has the table that this makes."""

from sidegate.doctor.checks import (
    container,
    daemon,
    databases,
    engine,
    files,
    firewall,
    forwarding,
    leftovers,
    limits,
    names,
    pool,
    ports,
    tools,
)
from sidegate.doctor.findings import Group

GROUPS: tuple[Group, ...] = (
    Group("daemon", daemon.CHECKS),
    Group("engine", engine.CHECKS),
    Group("forwarding", forwarding.CHECKS),
    Group("firewall", firewall.CHECKS),
    Group("networks", pool.CHECKS),
    Group("ports", ports.CHECKS),
    Group("databases", databases.CHECKS),
    Group("files", files.CHECKS),
    Group("limits", limits.CHECKS),
    Group("names", names.CHECKS),
    Group("tools", tools.CHECKS),
    Group("container", container.CHECKS),
    Group("leftovers", leftovers.CHECKS),
)


def table() -> str:
    """Every check as a Markdown table."""
    rows = [f"| {group.name} | `{check.name}` | {check.about} |" for group in GROUPS for check in group.checks]
    return "\n".join(("| group | check | what is so when nothing is wrong |", "| --- | --- | --- |", *rows)) + "\n"
