"""Certificates and keys for tests, and TLS handshakes in memory."""

import ssl
import time
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from sidegate.adapters.certificates.pem import general_name, identity, moment
from sidegate.core.certificates import Certificate, CertificateSet, KeyPair

DAY = 86400.0
TICKET_KEY = "5a" * 80


def pair(
    *names: str, days: float = 90, since: float = 1, private: Any = None, password: bytes | None = None
) -> tuple[str, str]:
    """A self-signed certificate for these names and its key, both PEM. Valid from `since` days ago for `days` more."""
    signed_with = private or ec.generate_private_key(ec.SECP256R1())
    now = time.time()
    common = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0] if names else "nobody")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(common)
        .issuer_name(common)
        .public_key(signed_with.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - since * DAY))
        .not_valid_after(moment(now + days * DAY))
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(map(general_name, names))), critical=False)
    sealed = BestAvailableEncryption(password) if password else NoEncryption()
    chain = builder.sign(signed_with, hashes.SHA256()).public_bytes(Encoding.PEM).decode()
    return chain, signed_with.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed).decode()


def key_pair(*names: str) -> KeyPair:
    return KeyPair(*pair(*names))


def certificate(name: str, *names: str, until: float = 100 * DAY, since: float = 0.0) -> Certificate:
    """A value for the core, which reads no PEM; times count from 0."""
    return Certificate(
        identity(name, str(until)), name, names, "Test CA", since, until, KeyPair(f"chain {name}", "key")
    )


def presented(**hosts: str) -> CertificateSet:
    """A set with a pair of its own for each name; the keyword is the id, `default` the default."""
    exact = {host: id_ for id_, host in hosts.items() if not host.startswith("*")}
    wild = {host[1:]: id_ for id_, host in hosts.items() if host.startswith("*")}
    pairs = {id_: key_pair(host) for id_, host in hosts.items()}
    return CertificateSet(exact, wild, pairs, "default" if "default" in hosts else "", TICKET_KEY)


def client_context(*alpn: str) -> ssl.SSLContext:
    """A client that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(list(alpn) or ["http/1.1"])
    return context


class Handshake:
    """A client and a server that speak TLS to each other in memory, then one byte. Raises what the server raised."""

    def __init__(
        self,
        server: ssl.SSLContext,
        host: str | None,
        client: ssl.SSLContext | None = None,
        session: ssl.SSLSession | None = None,
    ) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = client or client_context()
        self.client = context.wrap_bio(to_client, to_server, server_hostname=host, session=session)
        self.server = server.wrap_bio(to_server, to_client, server_side=True)
        for side in (self.client, self.server, self.client, self.server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
        self.say(b"!")

    def say(self, word: bytes) -> None:
        self.server.write(word)
        assert self.client.read(len(word)) == word

    @property
    def names(self) -> list[str]:
        """The hosts of the certificate that the client was shown."""
        shown = self.client.getpeercert(binary_form=True)
        assert shown
        leaf = x509.load_der_x509_certificate(shown)
        return leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
            x509.DNSName
        )
