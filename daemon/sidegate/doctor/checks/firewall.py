"""The host's firewall: Docker's chains, what rules over newcomers, and our own rules while the daemon runs."""

import re
from collections.abc import Iterable, Iterator

from sidegate.adapters.host import CHAIN, COMMENT_PREFIX, parse_rules
from sidegate.adapters.nft.fence import SUFFIX
from sidegate.adapters.nft.firewall import OPTIONS, iptables_fault, nft_fault
from sidegate.adapters.nft.forwarder import TABLES
from sidegate.core.desired import is_ours
from sidegate.doctor.findings import Check, Told, fault, warning
from sidegate.doctor.snapshot import Engine, Firewall, Snapshot, known

PASSING = (None, "ACCEPT", "LOG", "NFLOG")
RAW_RULES = 28
"""The first engine that keeps neighbours from unpublished ports by rules of its own."""
LEAD = f"iptables -I FORWARD 1 -j {CHAIN}"


def policies(listing: str) -> dict[str, str]:
    """Chain -> its policy, from `iptables -S`."""
    return dict(words[1:3] for line in listing.splitlines() if (words := line.split())[:1] == ["-P"])


def chain_rules(listing: str, chain: str) -> list[re.Match[str]]:
    """The rules of one chain in order, from `iptables -S`."""
    return [match for line in listing.splitlines() if (match := OPTIONS.fullmatch(line)) and match["chain"] == chain]


def backend(seen: Snapshot) -> Iterator[Told]:
    if known(seen.engine).firewall == "nftables":
        yield warning(
            f"the engine's own firewall is nftables, which has no {CHAIN}: workers carry external connections, and "
            "there is no fast path between containers",
            advice='Set "firewall-backend": "iptables" in /etc/docker/daemon.json, then `systemctl restart docker`.',
        )


def docker_user(seen: Snapshot) -> Iterator[Told]:
    firewall = known(seen.firewall)
    if isinstance(seen.engine, Engine) and seen.engine.firewall == "nftables":
        return
    listing = firewall.iptables
    if f"-N {CHAIN}" not in listing.splitlines():
        yield fault(
            f"iptables has no chain {CHAIN}: somebody has flushed Docker's rules, or the engine's own iptables "
            "setting is off; containers are not kept apart, and the kernel carries no external connection",
            command="systemctl restart docker",
        )
        return
    for rule in chain_rules(listing, "FORWARD"):
        if rule["target"] == CHAIN and not rule["match"]:
            return
        if rule["target"] not in PASSING:
            yield fault(f"iptables' FORWARD chain has a rule before Docker's {CHAIN}: `{rule[0]}`", command=LEAD)
            return
    yield fault(
        f"iptables' FORWARD chain does not lead to {CHAIN}: rules there, ours among them, mean nothing",
        command=LEAD,
        advice="Where Docker's other rules are gone, too: `systemctl restart docker`.",
    )


def forward_policy(seen: Snapshot) -> Iterator[Told]:
    firewall = known(seen.firewall)
    if policies(firewall.iptables).get("FORWARD") != "ACCEPT" or not known(seen.kernel).forwarding:
        return
    major = known(seen.engine).version.partition(".")[0]
    if major.isdigit() and int(major) < RAW_RULES:
        yield warning(
            "iptables' FORWARD chain accepts what no rule names: machines of your network that route to this one "
            "reach ports of containers that nobody published",
            command="iptables -P FORWARD DROP",
            advice="Not where this host routes for others, virtual machines or a VPN, without rules that accept it.",
        )


def carrier(seen: Snapshot) -> Iterator[Told]:
    """Other than what the chains of Docker have, which has a check of its own."""
    setting = seen.settings.forwarder
    if setting == "userspace" or any(docker_user(seen)):
        return
    firewall = known(seen.firewall)
    reason = iptables_fault(firewall.iptables) or iptables_fault(firewall.legacy)
    reason = reason or nft_fault(firewall.ruleset, TABLES, skip_iptables=firewall.nf_tables)
    if reason and setting == "kernel":
        yield fault(
            f'forwarder is "kernel", and the kernel cannot carry external connections: {reason}',
            advice='Set forwarder = "auto", and workers carry them.',
        )
    elif reason:
        yield warning(
            f"workers carry external connections, at about half the kernel's speed: {reason}",
            advice='That is safe. Set forwarder = "userspace" to say that it is meant.',
        )


def inbound(seen: Snapshot) -> Iterator[Told]:
    firewall, settings = known(seen.firewall), seen.settings
    if settings.listen == "loopback" or not _closed(firewall):
        return
    wanted = [range(port, port + 1) for port in (settings.http_port, settings.https_port) if port]
    shut = [ports for ports in (*wanted, settings.external_ports) if not _opened(firewall.iptables, ports)]
    if shut:
        names = [str(p.start) if len(p) == 1 else f"{p.start}-{p.stop - 1}" for p in shut]
        yield warning(
            f"{firewall.manager or 'the INPUT chain'} lets in what its rules name, and none names port "
            f"{', '.join(names)}",
            command=_open(firewall.manager, names),
            advice="Unless a rule that names no port lets them in, or nobody is to come from elsewhere.",
        )


def _closed(firewall: Firewall) -> bool:
    chain = chain_rules(firewall.iptables, "INPUT")
    ends = bool(chain) and chain[-1]["target"] in ("DROP", "REJECT") and not chain[-1]["match"]
    return bool(firewall.manager) or ends or policies(firewall.iptables).get("INPUT", "ACCEPT") != "ACCEPT"


def _opened(listing: str, ports: range) -> bool:
    """Whether some accept names the whole range, by --dport or --dports."""
    for accept in (line for line in listing.splitlines() if line.endswith("-j ACCEPT")):
        for given in re.findall(r"--dports? ([\d:,]+)", accept):
            for part in given.split(","):
                first, _, last = part.partition(":")
                if int(first) <= ports.start and int(last or first) >= ports.stop - 1:
                    return True
    return False


def _open(manager: str, names: Iterable[str]) -> str:
    match manager:
        case "ufw":
            return f"ufw allow proto tcp to any port {','.join(names).replace('-', ':')}"
        case "firewalld":
            ports = " ".join(f"--add-port={name}/tcp" for name in names)
            return f"firewall-cmd --permanent {ports} && firewall-cmd --reload"
        case _:
            ports = ",".join(names).replace("-", ":")
            return f"iptables -I INPUT -p tcp -m multiport --dports {ports} -j ACCEPT"


def firewalld(seen: Snapshot) -> Iterator[Told]:
    if known(seen.firewall).manager == "firewalld":
        yield warning(
            "firewalld is active: each of its reloads flushes our rules, which are back at the next pass; until then "
            "workers carry external connections",
            advice=f"It is safe. resync_seconds ({seen.settings.resync_seconds}) says how long that may take.",
        )


def ours(seen: Snapshot) -> Iterator[Told]:
    """While the daemon runs. Where it may not use iptables, it says so itself; an ordinary user's has none."""
    if seen.daemon.status is None or seen.daemon.uid or "CAP_NET_ADMIN" in seen.viewer.lacking:
        return
    if any(docker_user(seen)):
        return
    firewall, instance = known(seen.firewall), seen.settings.instance
    back = f"The daemon puts it back within {seen.settings.resync_seconds} s; if it stays away, see its log."
    comments = [word for rule in docker_user_rules(firewall) for word in rule if word.startswith(COMMENT_PREFIX)]
    rules = seen.settings.rules()
    networks = any(is_ours(network, rules) for network in known(seen.engine).state.networks)
    if networks and known(seen.kernel).bridge_filter and f"{COMMENT_PREFIX}{instance}" not in comments:
        yield warning(f"the bridge fast path's rule is not in {CHAIN}: connections are slower", advice=back)
    if networks and "nft" not in seen.missing_tools and instance not in our_fences(firewall):
        yield warning(
            "private networks have no fence and are open for moments, while Docker rewrites the rules that keep them "
            f"apart: the nftables table {TABLES}{instance}{SUFFIX} is gone",
            advice=back,
        )
    if seen.daemon.status.kernel:
        if f"{COMMENT_PREFIX}{instance}:external" not in comments:
            yield warning(f"the accepts of external connections are not in {CHAIN}", advice=back)
        if instance not in our_tables(firewall):
            yield warning(f"the nftables table {TABLES}{instance} of external connections is gone", advice=back)


def docker_user_rules(firewall: Firewall) -> list[tuple[str, ...]]:
    """The rules of DOCKER-USER, in words."""
    lines = [line for line in firewall.iptables.splitlines() if line.startswith(f"-A {CHAIN} ")]
    return parse_rules("\n".join(lines))


def our_tables(firewall: Firewall) -> list[str]:
    """Instances whose daemon made an nftables table for external connections."""
    return [name for name in _instances(firewall) if not name.endswith(SUFFIX)]


def our_fences(firewall: Firewall) -> list[str]:
    """Instances whose networks are fenced."""
    return [name.removesuffix(SUFFIX) for name in _instances(firewall) if name.endswith(SUFFIX)]


def _instances(firewall: Firewall) -> list[str]:
    tables = [item["table"] for item in firewall.ruleset if "table" in item]
    names = [table["name"] for table in tables if table["family"] == "ip"]
    return [name.removeprefix(TABLES) for name in names if name.startswith(TABLES)]


CHECKS = (
    Check("firewall-backend", "the engine's firewall is iptables", backend),
    Check("docker-user", f"the chain {CHAIN} is there, and FORWARD leads to it first", docker_user),
    Check("forward-policy", "what no rule names is not forwarded (the policy of FORWARD)", forward_policy),
    Check("kernel-forwarder", "the firewall lets the kernel carry external connections", carrier),
    Check("inbound", "the firewall lets visitors in: http_port, https_port, external_ports", inbound),
    Check("firewalld", "no firewalld flushes rules", firewalld),
    Check("our-rules", "the daemon's rules are where they should be while it runs", ours),
)
