"""The verbs of certificates: ls, add, rm, ca."""

import re
from dataclasses import dataclass

from sidegate.api import schemas
from sidegate.api.world import CertificateFiles, World
from sidegate.core.certificates import Assignment, Certificate
from sidegate.errors import InvalidInputError, RefusedError

FILE, AUTHORITY = "file", "local authority"
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]|\.(?=[a-z0-9_-])){0,99}")
_RESERVED = "authority"  # its path is the authority's own
_SUBJECT = "certificate "


@dataclass(frozen=True, slots=True)
class CertificateVerbs:
    """Which certificates there are. Keys come in and never go out."""

    world: World

    async def ls(self) -> list[schemas.CertificateView]:
        """Those of files first, unusable ones too, then the local authority's. Raises RefusedError without TLS."""
        self._files()
        await self.world.seen()
        assignment = self._assignment()
        files = {certificate.name: self._view(certificate, assignment) for certificate in assignment.state.files}
        for problem in assignment.problems:
            name = problem.subject.removeprefix(_SUBJECT)
            if name != problem.subject and name not in files:
                files[name] = schemas.CertificateView(
                    name=name,
                    names=[],
                    source=FILE,
                    issuer=None,
                    expires=None,
                    used_by=[],
                    problems=_problems(name, assignment),
                )
        issued = {c.id: c for c in assignment.state.issued.values() if c.id in assignment.presented.pairs}
        return [
            *(files[name] for name in sorted(files)),
            *sorted((self._view(c, assignment) for c in issued.values()), key=lambda view: view.names),
        ]

    async def add(self, name: str, asked: schemas.CertificateRequest) -> schemas.CertificateView:
        """Keep a pair under `name`, in the place of one of that name; returns once workers present it.

        Raises InvalidInputError (no match, not PEM, expired, without names), RefusedError (the directory is kept by
        others, no TLS), StoreError; then nothing has changed.
        """
        files = self._files()
        await files.add(_check_name(name), asked.chain, asked.key)
        await self.world.settle()
        assignment = self._assignment()
        found = next((c for c in assignment.state.files if c.name == name), None)
        if found is None:
            raise InvalidInputError(f"the certificate {name} is not in use: see `sidegate status`")
        return self._view(found, assignment)

    async def rm(self, name: str) -> schemas.CertificateRemoved:
        """Remove a pair; its names get the local authority's unless another file covers them.

        Raises InvalidInputError, NotFoundError, RefusedError, StoreError.
        """
        files = self._files()
        before = [c for c in self._assignment().state.files if c.name == name]
        await files.remove(_check_name(name))
        await self.world.settle()
        return schemas.CertificateRemoved(name=name, names=[n for c in before for n in c.names])

    async def authority(self) -> str:
        """The local authority's certificate in PEM. Raises RefusedError without TLS, CertificateError."""
        return await self._files().authority()

    def _files(self) -> CertificateFiles:
        if self.world.certificates is None:
            raise RefusedError("there is no TLS here (https_port = 0): set https_port and start the daemon again")
        return self.world.certificates

    def _assignment(self) -> Assignment:
        return self.world.loop.last.desired.certificates or Assignment()

    def _view(self, certificate: Certificate, assignment: Assignment) -> schemas.CertificateView:
        routes = self.world.loop.last.desired.routes
        apps: set[str] = set()
        for host in assignment.used.get(certificate.id, ()):
            paths = routes.wildcards.get(host[1:], ()) if host.startswith("*.") else routes.hosts.get(host, ())
            apps |= {path.app for path in paths}
        return schemas.CertificateView(
            name=certificate.name or None,
            names=list(certificate.names),
            source=FILE if certificate.name else AUTHORITY,
            issuer=certificate.issuer,
            expires=certificate.not_after,
            used_by=sorted(apps),
            problems=_problems(certificate.name, assignment) if certificate.name else [],
        )


def _problems(name: str, assignment: Assignment) -> list[str]:
    return [problem.text for problem in assignment.problems if problem.subject == _SUBJECT + name]


def _check_name(name: str) -> str:
    if name == _RESERVED or not _NAME.fullmatch(name):
        raise InvalidInputError(
            f"{name!r} cannot name a certificate: use 1 to 100 of a-z, 0-9, dots, dashes and underscores (--name)"
        )
    return name
