"""Which certificate answers for which name. Values and choice only: nothing here reads a file or signs."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate chain, leaf first, and its private key, both PEM. Never printed: the repr leaves the key out."""

    chain: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateSet:
    """What workers present. `hosts`: exact host -> an id; `wildcards`: the suffix after "*", with its dot -> an id.

    `pairs`: id -> key pair; an id never stands for two pairs. `default` is presented where the client names no host or
    one without a certificate. `ticket_key` is 80 random bytes in hex that all workers seal session tickets with.
    """

    hosts: Mapping[str, str] = field(default_factory=dict)
    wildcards: Mapping[str, str] = field(default_factory=dict)
    pairs: Mapping[str, KeyPair] = field(default_factory=dict)
    default: str = ""
    ticket_key: str = field(default="", repr=False)
