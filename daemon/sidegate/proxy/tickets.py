"""One key for the session tickets of all workers: a client that comes back is given to any of them.

Python's ssl module has no call for it; libssl has one, SSL_CTX_set_tlsext_ticket_keys(3). So this module takes the
SSL_CTX pointer out of an ssl.SSLContext and calls libssl, the same that the _ssl extension is linked to. The risk is
that a Python to come lays its objects out differently. Nothing is called before the pointer has proved to be what it
should be (its method is TLS_server_method's), the key is read back, and `resumes` shows with a real handshake that one
context takes the other's tickets. Where any of that fails each worker seals tickets with a key of its own.
"""

import ctypes
import os
import ssl
import sys

KEY_BYTES = 80
"""A name of 16 bytes, an HMAC key of 32, an AES key of 32 (OpenSSL 1.1.0 and later)."""

_GET_TICKET_KEYS, _SET_TICKET_KEYS = 58, 59  # SSL_CTRL_* of openssl/ssl.h
_SET_SESSION_CACHE_MODE, _CACHE_OFF = 44, 0
_FIRST_FIELDS = 16  # bytes of an SSL_CTX that hold its method: the first or the second pointer
_POINTER = ctypes.sizeof(ctypes.c_void_p)


def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL] | None:
    """libssl as the _ssl extension sees it, and libc. Loaded with the module: workers see no files later."""
    if sys.implementation.name != "cpython":
        return None
    try:
        libssl = ctypes.CDLL(getattr(sys.modules["_ssl"], "__file__", None))
        libssl.SSL_CTX_ctrl.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p)
        libssl.SSL_CTX_ctrl.restype = ctypes.c_long
        libssl.TLS_server_method.argtypes = ()
        libssl.TLS_server_method.restype = ctypes.c_void_p
        libc = ctypes.CDLL(None, use_errno=True)
        libc.write.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t)
        libc.write.restype = ctypes.c_ssize_t
    except (OSError, AttributeError):
        return None
    return libssl, libc


_LOADED = _libraries()


def share(context: ssl.SSLContext, key: bytes) -> bool:
    """Have a server's context seal and open tickets with `key`; False: it cannot be done here, nothing has changed.

    With tickets that every worker opens the cache of sessions in memory has no use, and is turned off.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"a ticket key has {KEY_BYTES} bytes, not {len(key)}")
    found = _pointer(context)
    if _LOADED is None or not found:
        return False
    control = _LOADED[0].SSL_CTX_ctrl
    if control(found, _GET_TICKET_KEYS, 0, None) != KEY_BYTES or control(found, _SET_TICKET_KEYS, KEY_BYTES, key) != 1:
        return False
    there = ctypes.create_string_buffer(KEY_BYTES)
    if control(found, _GET_TICKET_KEYS, KEY_BYTES, there) != 1 or there.raw != key:
        return False
    control(found, _SET_SESSION_CACHE_MODE, _CACHE_OFF, None)
    return True


def _pointer(context: ssl.SSLContext) -> int:
    """The SSL_CTX of a context made with PROTOCOL_TLS_SERVER; 0 where what lies there is something else."""
    if _LOADED is None:
        return 0
    libssl, libc = _LOADED
    candidate = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value or 0
    try:
        reader, writer = os.pipe()
    except OSError:  # out of descriptors
        return 0
    try:
        # write(2) answers EFAULT for memory that is not there, where looking at it would end the process.
        if not candidate or libc.write(writer, candidate, _FIRST_FIELDS) != _FIRST_FIELDS:
            return 0
        fields = os.read(reader, _FIRST_FIELDS)
    finally:
        os.close(reader)
        os.close(writer)
    method = libssl.TLS_server_method().to_bytes(_POINTER, sys.byteorder)
    return candidate if method in (fields[:_POINTER], fields[_POINTER : 2 * _POINTER]) else 0


def resumes(one: ssl.SSLContext, other: ssl.SSLContext) -> bool:
    """Whether a session that began with `one` goes on with `other`, shown by two handshakes in memory."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    try:
        return _handshake(client, other, _handshake(client, one, None).session).session_reused is True
    except (ssl.SSLError, OSError, ValueError):
        return False


def _handshake(client: ssl.SSLContext, server: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLObject:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, session=session)
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (ours, theirs, ours, theirs):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    theirs.write(b"!")  # a ticket of TLS 1.3 comes after the handshake: it is taken in on the way to this
    ours.read(1)
    return ours
