"""PEM texts to certificates, checked as far as workers would: what passes here loads there."""

import hashlib
import os
import ssl
from datetime import UTC, datetime
from ipaddress import ip_address

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from sidegate.core.certificates import Certificate, KeyPair

_ENCRYPTED = ("BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED")


def parse(name: str, chain: str, key: str) -> Certificate:
    """A checked pair: the leaf is the chain's first certificate. Raises ValueError: what is wrong, then what to do.

    The error never holds a part of the key.
    """
    try:
        certificates = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise ValueError("the certificate cannot be read: it must be PEM, whole, the leaf first") from None
    leaf = certificates[0]
    private = _private(key)
    public = _plain(private.public_key())
    if _public(leaf) != public:
        if any(_public(other) == public for other in certificates[1:]):
            raise ValueError("the key is not the first certificate's: put the leaf before those of its issuers")
        raise ValueError("the key does not belong to the certificate: replace both together")
    names = _names(leaf)
    if not names:
        raise ValueError("the certificate names no host (subjectAltName): have it issued again with its domains")
    clean = "".join(c.public_bytes(Encoding.PEM).decode() for c in certificates)
    sealed = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    _load(clean, sealed)
    return Certificate(
        id=identity(clean, sealed),
        name=name,
        names=names,
        issuer=issuer(leaf),
        not_before=leaf.not_valid_before_utc.timestamp(),
        not_after=leaf.not_valid_after_utc.timestamp(),
        pair=KeyPair(clean, sealed),
    )


def identity(chain: str, key: str) -> str:
    """An id for a pair that no other has, and that says nothing of the key."""
    return hashlib.sha256(f"{chain}\0{key}".encode()).hexdigest()[:32]


def issuer(certificate: x509.Certificate) -> str:
    """Who signed it, for people: the organisation and the common name, as far as they are there."""
    words: list[str] = []
    for kind in (x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME):
        words += [str(a.value) for a in certificate.issuer.get_attributes_for_oid(kind)]
    text = ", ".join(dict.fromkeys(words)) or "unknown"
    return "".join(c if c.isprintable() else "?" for c in text)


def _private(key: str) -> PrivateKeyTypes:
    if any(mark in key for mark in _ENCRYPTED):
        raise ValueError("the key is encrypted: store it without a passphrase (openssl pkey -in KEY -out PLAIN)")
    try:
        return load_pem_private_key(key.encode(), password=None)
    except Exception:  # noqa: BLE001  # several kinds; their texts may quote what they could not read
        raise ValueError("the key cannot be read: it must be PEM, whole and not encrypted") from None


def _public(certificate: x509.Certificate) -> bytes:
    """The public key, empty for one of a kind that the library does not know."""
    try:
        return _plain(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return b""


def _plain(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _names(leaf: x509.Certificate) -> tuple[str, ...]:
    """The hosts that a certificate is for, lower case, addresses in their shortest form."""
    try:
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        dns = [name.lower().removesuffix(".") for name in found.get_values_for_type(x509.DNSName)]
        return tuple(dict.fromkeys([*filter(None, dns), *map(str, found.get_values_for_type(x509.IPAddress))]))
    except x509.ExtensionNotFound:
        return ()
    except Exception:  # noqa: BLE001  # the library has half a dozen kinds for this
        raise ValueError("the certificate's extensions cannot be read: have it issued again") from None


def general_name(name: str) -> x509.GeneralName:
    """A host, a wildcard or an address as a certificate says it."""
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def moment(at: float) -> datetime:
    """A Unix time as the library takes it."""
    return datetime.fromtimestamp(int(at), UTC)


def _load(chain: str, key: str) -> None:
    """OpenSSL refuses what cryptography does not mind, such as RSA keys of 1024 bits."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{chain}{key}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        reason = (error.reason or "not usable").lower().replace("_", " ")
        raise ValueError(f"TLS cannot use the certificate ({reason}): have a stronger one issued") from None
    finally:
        os.close(descriptor)
