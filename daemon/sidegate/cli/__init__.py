"""The command line: one thin door to the control API, and `sidegate run`, which starts the daemon.

Each verb parses, calls, prints. Exit status: 0 done, 1 failed, 2 usage, 3 daemon not reachable, 4 no such thing,
5 refused.
"""

import os
import sys
from pathlib import Path

import click

from sidegate import __version__
from sidegate.cli import apps, builds, certificates, connections, databases, deployments, env, external, node
from sidegate.cli.session import common
from sidegate.cli.tables import printable
from sidegate.errors import SidegateError


class _Group(click.Group):
    """The whole command line: every error of ours becomes one sentence and its exit status."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except SidegateError as error:
            click.echo(f"sidegate: {printable(str(error))}", err=True)  # it may quote what a stranger's program wrote
            ctx.exit(error.exit_status)
        except UnicodeError:
            raise click.UsageError("what was given is not UTF-8 text") from None


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog='Tab completion: eval "$(_SIDEGATE_COMPLETE=bash_source sidegate)" (or zsh_source, fish_source).',
)
@click.version_option(__version__, message="sidegate %(version)s")
@common
def sidegate() -> None:
    """Connections for the containers of one Docker node.

    \b
    Exit status: 0 done, 1 failed (or you said no), 2 usage or a wrong value,
    3 daemon not reachable, 4 no such thing, 5 refused.

    \b
    Example:
      sidegate connect shop shop-db --env
    """


@sidegate.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Settings in TOML. Default: /etc/sidegate/sidegate.toml where there is one.",
)
def run(config: Path | None) -> None:
    """Start the daemon, in the foreground, until SIGTERM or Ctrl-C.

    \b
    Example:
      sidegate run --config sidegate.toml
    """
    from sidegate.main import run_daemon  # late: only this verb needs the daemon's libraries

    raise SystemExit(run_daemon(config))


for module in (node, apps, deployments, env, builds, databases, connections, external, certificates):
    for command in module.COMMANDS:
        sidegate.add_command(command)


def main() -> None:
    """The console script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # as long as the process
    sidegate(prog_name="sidegate")
