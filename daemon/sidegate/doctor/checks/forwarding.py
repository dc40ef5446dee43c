"""What the kernel does with packets of containers."""

from collections.abc import Iterator

from sidegate.doctor.findings import Check, Told, fault, warning
from sidegate.doctor.snapshot import Snapshot, known

NEARLY, ALL_BUT = 0.8, 0.95


def ip_forward(seen: Snapshot) -> Iterator[Told]:
    if not known(seen.kernel).forwarding:
        yield fault(
            "this host does not forward packets: containers reach nothing outside, and the kernel carries no external "
            "connection",
            command="sysctl -w net.ipv4.ip_forward=1",
            advice="To keep it: put net.ipv4.ip_forward=1 into a file in /etc/sysctl.d.",
        )


def bridge_filter(seen: Snapshot) -> Iterator[Told]:
    value = known(seen.kernel).bridge_filter
    meaning = (
        "packets between containers of one network pass the firewall unseen: the engine's --icc=false and rules of "
        "yours in DOCKER-USER do not hold there (Sidegate's networks are apart all the same)"
    )
    if value is None:
        yield warning(
            f"the module br_netfilter is not loaded, so {meaning}",
            command="modprobe br_netfilter",
            advice="To keep it: `echo br_netfilter > /etc/modules-load.d/br_netfilter.conf`.",
        )
    elif not value:
        yield warning(
            f"net.bridge.bridge-nf-call-iptables is 0, so {meaning}",
            command="sysctl -w net.bridge.bridge-nf-call-iptables=1",
        )


def tracking(seen: Snapshot) -> Iterator[Told]:
    kernel = known(seen.kernel)
    flows, most = kernel.flows, kernel.flows_most
    if not most or flows < NEARLY * most:
        return
    told = fault if flows >= ALL_BUT * most else warning
    yield told(
        f"the kernel tracks {flows} connections and can track {most}: beyond that it drops new ones, whoever they are",
        command=f"sysctl -w net.netfilter.nf_conntrack_max={2 * most}",
    )


CHECKS = (
    Check("ip-forward", "the kernel forwards packets (net.ipv4.ip_forward)", ip_forward),
    Check("bridge-nf", "bridged packets meet the firewall (br_netfilter, bridge-nf-call-iptables)", bridge_filter),
    Check("conntrack", "the table of tracked connections has room (nf_conntrack_max)", tracking),
)
