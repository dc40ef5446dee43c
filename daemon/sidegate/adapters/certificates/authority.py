"""The local authority: signs for names that have no certificate of their own. Blocking; called from a thread.

Its key never leaves its file and this process. It may sign leafs only, and those for TLS servers only (a path length of
0, an extended key usage); which names those are is not limited, since an app may have any domain.
"""

import socket
import time
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from sidegate.adapters.certificates import files
from sidegate.adapters.certificates.pem import general_name, identity, moment
from sidegate.core.certificates import Certificate, KeyPair, day

FILE_NAME = "authority.pem"
LONGEST_NAME = 64  # characters of a common name (RFC 5280, ub-common-name)
YEARS = 10
LEAF_DAYS = 90
_DAY = 86400.0
_SKEW = 3600.0  # clients' clocks may be behind
_USAGES = dict.fromkeys(
    (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ),
    False,
)


class Authority:
    """Loaded, or made where there is none: certificate and key in one file, so that there is never half of it."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.time) -> None:
        """Raises OSError, or ValueError where the file is there and is of no use."""
        self._clock = clock
        path = directory / FILE_NAME
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            files.write(path, _new(clock()))
        text = path.read_text(encoding="utf-8")
        try:
            key = load_pem_private_key(text.encode(), password=None)
            self.certificate = x509.load_pem_x509_certificate(text.encode())
        except Exception:  # noqa: BLE001  # several kinds; their texts may quote what they could not read
            raise ValueError(_restore(path, "cannot be read")) from None
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != self.certificate.public_key():
            raise ValueError(_restore(path, "has a key of another certificate"))
        if self.certificate.not_valid_after_utc.timestamp() < clock() + LEAF_DAYS * _DAY:
            ends = day(self.certificate.not_valid_after_utc.timestamp())
            raise ValueError(_restore(path, f"ends on {ends}"))
        self._key = key
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_pem = self._leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        self._subject_id = x509.SubjectKeyIdentifier.from_public_key(self._leaf_key.public_key())
        self._issuer_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())

    @property
    def pem(self) -> str:
        """The certificate, for a trust store."""
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def title(self) -> str:
        """Its common name."""
        return str(self.certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)

    def issue(self, *names: str) -> Certificate:
        """A leaf for these hosts and addresses. All leafs have one key; each is new with every start of the daemon."""
        now = self._clock()
        begins, ends = now - _SKEW, now + LEAF_DAYS * _DAY
        common = names[0] if len(names[0]) <= LONGEST_NAME else "Sidegate"
        leaf = (
            x509.CertificateBuilder()
            .subject_name(_named(common))
            .issuer_name(self.certificate.subject)
            .public_key(self._leaf_key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment(begins))
            .not_valid_after(moment(ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**_USAGES | {"digital_signature": True}), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .add_extension(x509.SubjectAlternativeName([general_name(name) for name in names]), critical=False)
            .add_extension(self._subject_id, critical=False)
            .add_extension(self._issuer_id, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        chain = leaf.public_bytes(Encoding.PEM).decode()
        return Certificate(
            id=identity(chain, self._leaf_pem),
            name="",
            names=names,
            issuer=self.title,
            not_before=begins,
            not_after=ends,
            pair=KeyPair(chain, self._leaf_pem),
        )


def due(leaf: Certificate, now: float) -> bool:
    """Whether a leaf should be issued again: with a third of its life left."""
    return leaf.not_after - now < (leaf.not_after - leaf.not_before) / 3


def _new(now: float) -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    name = _named(f"Sidegate local authority ({socket.gethostname()})"[:LONGEST_NAME])
    usages = _USAGES | {"key_cert_sign": True, "crl_sign": True}
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(moment(now - _SKEW))
        .not_valid_after(moment(now + YEARS * 365.25 * _DAY))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.KeyUsage(**usages), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return (certificate.public_bytes(Encoding.PEM) + private).decode()


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common)])


def _restore(path: Path, fault: str) -> str:
    return f"{path} {fault}: restore it from a backup, or remove it to have a new authority made (and trusted again)"
