"""The verbs of certificates: cert ls, cert add, cert rm, cert ca."""

import sys
from pathlib import Path

import click

from sidegate.api import schemas
from sidegate.api.client import quote
from sidegate.cli import tables
from sidegate.cli.completing import complete_certificate
from sidegate.cli.session import Session, common, pass_session

_LARGEST = 1 << 20  # bytes
_GENERIC = {"fullchain", "cert", "chain", "tls", "certificate", "server"}
_TRUST = """\
To trust it, for browsers and tools on your own machine (sidegate cert ca > sidegate-ca.crt):
  Debian, Ubuntu  sudo cp sidegate-ca.crt /usr/local/share/ca-certificates/ && sudo update-ca-certificates
  macOS           sudo security add-trusted-cert -d -r trustRoot -k /Library/Keychains/System.keychain sidegate-ca.crt
  Firefox         Settings, Privacy & Security, View Certificates, Authorities, Import"""


@click.group()
@common
def cert() -> None:
    """Certificates: your own, and the local authority's for every other name.

    Files that are put into the directory of certificates are taken up at once, too. Names that none of them covers get
    one of the local authority, which browsers trust once its certificate is in their store (`cert ca`).

    \b
    Example:
      sidegate cert add --cert shop.example.crt --key shop.example.key
    """


@cert.command("ls")
@common
@pass_session
def cert_ls(session: Session) -> None:
    """Every certificate that is presented, and those that cannot be, with what is wrong with them.

    Files come first, then those that the local authority has issued. "used by" are apps that answer at its hosts.

    \b
    Example:
      sidegate cert ls
    """
    session.show(session.call("GET", "/v1/certificates", list[schemas.CertificateView]), _show)


def _show(found: list[schemas.CertificateView]) -> None:
    rows = [(c.name, c.names, c.source, c.issuer, tables.when(c.expires), c.used_by) for c in found]
    columns = ("name", "hosts", "from", "issuer", "expires", "used by")
    tables.table(columns, rows, empty="no certificates: see `sidegate status`")
    tables.warn(f"{c.name}: {text}" for c in found for text in c.problems)


@cert.command("add")
@click.option(
    "--cert",
    "chain",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="The chain, leaf first, PEM.",
)
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), metavar="FILE", help="Its key, PEM, not encrypted."
)
@click.option("--name", help="What to call it. Default: the file's name, or its directory's for fullchain.pem.")
@common
@pass_session
def cert_add(session: Session, chain: Path, key: Path, name: str | None) -> None:
    """Present a certificate for the hosts that it names. It takes the place of an earlier one of that name.

    \b
    Example:
      sidegate cert add --cert shop.example.crt --key shop.example.key
    """
    body = schemas.CertificateRequest(chain=_read(chain), key=_read(key))
    path = f"/v1/certificates/{quote(name if name is not None else _name(chain))}"
    session.show(session.call("PUT", path, schemas.CertificateView, body=body), lambda found: _show([found]))


def _name(chain: Path) -> str:
    stem = chain.stem.lower()
    return chain.absolute().parent.name.lower() if stem in _GENERIC else stem


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise click.UsageError(f"{path} is too large to be a certificate or a key")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not PEM (DER, perhaps): convert it with openssl x509 or pkey") from None


@cert.command("rm")
@click.argument("name", metavar="NAME", shell_complete=complete_certificate)
@common
@pass_session
def cert_rm(session: Session, name: str) -> None:
    """Remove a certificate that was added. Its hosts get the local authority's.

    \b
    Example:
      sidegate cert rm shop.example
    """
    reply = session.call("DELETE", f"/v1/certificates/{quote(name)}", schemas.CertificateRemoved)
    session.show(reply, lambda removed: tables.facts([("removed", removed.name), ("hosts", removed.names)]))


@cert.command("ca")
@common
@pass_session
def cert_ca(session: Session) -> None:
    """The local authority's certificate in PEM, for trust stores.

    \b
    Example:
      sidegate cert ca > sidegate-ca.crt
    """
    sys.stdout.buffer.write(session.call("GET", "/v1/certificates/authority", bytes).body)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty():
        click.echo(_TRUST, err=True)


COMMANDS = (cert,)
