"""The calls of certificates."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, Text, always
from sidegate.api.commands import Commands


async def _authority(commands: Commands, _: Asked) -> Text:
    return Text(await commands.certificates.authority(), "text/plain")


CALLS: tuple[Call, ...] = (
    Call(
        "GET",
        "/v1/certificates",
        ("cert ls",),
        "Every certificate that is presented, and files that cannot be",
        list[schemas.CertificateView],
        lambda c, a: c.certificates.ls(),
    ),
    Call(
        "GET",
        "/v1/certificates/authority",
        ("cert ca",),
        "The local authority's certificate, as PEM",
        str,
        _authority,
    ),
    Call(
        "PUT",
        "/v1/certificates/{name}",
        ("cert add",),
        "Keep a certificate and its key, and present them",
        schemas.CertificateView,
        lambda c, a: c.certificates.add(a.path["name"], a.body),
        body=schemas.CertificateRequest,
        audited=always,
    ),
    Call(
        "DELETE",
        "/v1/certificates/{name}",
        ("cert rm",),
        "Remove a certificate that was added",
        schemas.CertificateRemoved,
        lambda c, a: c.certificates.rm(a.path["name"]),
        audited=always,
    ),
)
