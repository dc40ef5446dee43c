"""What PostgreSQL keeps of a password, computed here, so that the password itself is in no statement and in no log.

Source: RFC 5802 section 3 (the keys), RFC 7677 (SHA-256), RFC 4013 (SASLprep), PostgreSQL's manual, "pg_authid".
"""

import base64
import hashlib
import hmac
import secrets
import stringprep
import unicodedata
from collections.abc import Callable

ITERATIONS = 4096
_PROHIBITED: tuple[Callable[[str], bool], ...] = (
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
    stringprep.in_table_a1,
)


def scram_verifier(password: str, salt: bytes | None = None, iterations: int = ITERATIONS) -> str:
    """`SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`; 16 random bytes of salt by default."""
    salt = salt or secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", prepared(password).encode(), salt, iterations)
    stored_key = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    keys = f"{_text(stored_key)}:{_text(_hmac(salted, b'Server Key'))}"
    return f"SCRAM-SHA-256${iterations}:{_text(salt)}${keys}"


def md5_verifier(password: str, user: str) -> str:
    """What servers keep whose `password_encryption` is md5: the default before version 14."""
    return "md5" + hashlib.md5((password + user).encode(), usedforsecurity=False).hexdigest()


def prepared(password: str) -> str:
    """The password as SASLprep makes it. One that it does not take is used as it is, as servers and clients do."""
    if password.isascii():
        return password
    mapped = "".join(" " if stringprep.in_table_c12(c) else c for c in password if not stringprep.in_table_b1(c))
    normal = unicodedata.normalize("NFKC", mapped)
    if not normal or any(prohibited(c) for c in normal for prohibited in _PROHIBITED):
        return password
    right = [stringprep.in_table_d1(c) for c in normal]
    if any(right) and (not right[0] or not right[-1] or any(map(stringprep.in_table_d2, normal))):
        return password  # RFC 3454 section 6: what runs right to left must begin and end so
    return normal


def _hmac(key: bytes, text: bytes) -> bytes:
    return hmac.digest(key, text, "sha256")


def _text(value: bytes) -> str:
    return base64.b64encode(value).decode()
