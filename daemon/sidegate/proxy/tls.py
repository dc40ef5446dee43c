"""What a worker presents to TLS clients: one context for the listener, a certificate for each name asked for.

RFC 6066 section 3 (SNI), RFC 8446, RFC 9325 (which versions and suites). Nothing here reads a file that has a name:
a worker could not.
"""

import binascii
import os
import ssl
import sys
from collections.abc import Callable, Iterable

from sidegate.core.certificates import CertificateSet, KeyPair, choose
from sidegate.proxy import tickets

SUITES_1_2 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""Forward secret and authenticated, all of them; those of TLS 1.3 are OpenSSL's own."""

KEPT_CONTEXTS = 1024
"""Certificates that are loaded at one time, about 19 KiB each; the one that was asked for least recently goes first."""

_SEQUENCE = b"\x30"  # the tag that every certificate and every key begins with (X.690 section 8.9)


class TlsContexts:
    """`context` is for the listener and stays the same; `replace` changes what it presents to new connections."""

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        """`note` is told what an operator should know: tickets that are not shared, a pair that cannot be used."""
        self.context = _server_context()
        self.context.sni_callback = self._choose
        self._note = note or (lambda _: None)
        self._certificates = CertificateSet()
        self._loaded: dict[str, ssl.SSLContext] = {}
        self._unusable: set[str] = set()
        self._tickets_shared: bool | None = None  # None: not tried yet, for want of a certificate

    def __repr__(self) -> str:
        return f"<TlsContexts pairs={len(self._certificates.pairs)} loaded={len(self._loaded)}>"

    def replace(self, certificates: CertificateSet) -> None:
        """Present these from now on; connections that are there keep what they have.

        A certificate is loaded when somebody first asks for its name, so 10,000 cost next to nothing here; each is
        looked at, the default is loaded. Raises ValueError for what can never be used, and then nothing has changed.
        """
        pairs, present = certificates.pairs, self._certificates.pairs
        for name in (certificates.default, *certificates.hosts.values(), *certificates.wildcards.values()):
            if name and name not in pairs:
                raise ValueError(f"no key pair has the id {name}")
        _check(pair for name, pair in pairs.items() if name not in present)
        key = bytes.fromhex(certificates.ticket_key)
        if key and len(key) != tickets.KEY_BYTES:
            raise ValueError(f"a ticket key has {tickets.KEY_BYTES} bytes, not {len(key)}")
        default = certificates.default
        if default and default not in self._loaded:
            try:
                self._loaded[default] = _load(pairs[default])
            except OSError as error:
                raise ValueError(f"the default certificate cannot be loaded now: {error.strerror}") from None
        self._certificates = certificates
        self._loaded = {name: context for name, context in self._loaded.items() if name in pairs}
        self._unusable &= pairs.keys()
        if key and default:
            self._share_tickets(key, pairs[default])

    def _share_tickets(self, key: bytes, pair: KeyPair) -> None:
        if self._tickets_shared is None:
            one, other = _load(pair), _load(pair)
            self._tickets_shared = tickets.share(one, key) and tickets.share(other, key) and tickets.resumes(one, other)
            if not self._tickets_shared:
                self._note("session tickets are not shared between workers: this Python or OpenSSL is not known")
        if self._tickets_shared:
            tickets.share(self.context, key)

    def _choose(self, connection: ssl.SSLObject, host: str | None, _: ssl.SSLContext) -> int | None:
        """ssl's callback, which also comes for clients that name no host. An int is the alert that ends it."""
        certificates = self._certificates
        wanted = choose(certificates, host.lower().removesuffix(".") if host else "")
        for name in (wanted, certificates.default):
            if context := self._loaded.pop(name, None) or self._first_use(name):
                self._loaded[name] = context  # at the end again: this is the latest use
                connection.context = context
                return None
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def _first_use(self, name: str) -> ssl.SSLContext | None:
        if not name or name in self._unusable:
            return None
        try:
            context = _load(self._certificates.pairs[name])
        except ValueError as error:
            self._unusable.add(name)
            self._note(f"the certificate {name} cannot be used: {error}")
            return None
        except OSError:  # out of descriptors: another time
            return None
        while len(self._loaded) >= KEPT_CONTEXTS:
            del self._loaded[next(iter(self._loaded))]
        return context


def ignore_bad_names() -> None:
    """For the start of a worker. ssl reports a server name that is not ASCII as an unraisable error, nine lines on
    standard error each, after it has ended the handshake: strangers must not fill the log."""
    report = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(unraisable.exc_value, UnicodeDecodeError) and isinstance(unraisable.object, bytes)):
            report(unraisable)

    sys.unraisablehook = hook


def _server_context() -> ssl.SSLContext:
    """A context without a certificate. What is not said here ssl says for us: server's order of suites, no SSLv3,
    buffers given back while a connection is idle (SSL_MODE_RELEASE_BUFFERS)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(SUITES_1_2)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 1
    context.set_alpn_protocols(["http/1.1"])
    return context


def _load(pair: KeyPair) -> ssl.SSLContext:
    """A context that presents this pair. Raises ValueError, and OSError where there are no descriptors left.

    load_cert_chain takes only names of files, so it gets that of a file in memory. A process may follow the links in
    its own /proc/self/fd even when it is not dumpable.
    """
    context = _server_context()
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{pair.chain}\n{pair.key}\n".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=_no_password)
    except ssl.SSLError as error:
        raise ValueError(f"the certificate and its key cannot be loaded ({error.reason or 'not PEM'})") from None
    finally:
        os.close(descriptor)
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def _check(pairs: Iterable[KeyPair]) -> None:
    """Raise ValueError for a pair that is no PEM (RFC 7468). Cheap: nothing is parsed, and many have the same key."""
    keys: set[str] = set()
    for pair in pairs:
        if not _is_pem(pair.chain, "CERTIFICATE-----"):
            raise ValueError("a certificate is not PEM")
        if pair.key not in keys and not _is_pem(pair.key, "PRIVATE KEY-----"):
            raise ValueError("a key is not PEM")
        keys.add(pair.key)


def _is_pem(text: str, label: str) -> bool:
    """Whether the first part of `text` is whole and of that label."""
    begin = text.find(label)
    end = text.find("-----END ", begin)
    if begin == -1 or end == -1 or not text.startswith("-----BEGIN "):
        return False
    try:
        decoded = binascii.a2b_base64(text[begin + len(label) : end])
    except ValueError:
        return False
    return decoded[:1] == _SEQUENCE
