"""The command line: one thin door to the control API, and `sidegate run`, which starts the daemon.

Each verb parses, calls, prints. Exit status: 0 done, 1 failed, 2 usage, 3 daemon not reachable, 4 no such thing,
5 refused.
"""

import os
import sys
from pathlib import Path

import click

from sidegate import __version__
from sidegate.cli.session import common
from sidegate.cli.verbs import TopGroup

VARIABLE = "_SIDEGATE_COMPLETE"
"""Set where a shell asks how a word may go on."""


@click.group(
    cls=TopGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="See also: sidegate help VERB, sidegate man, sidegate completion bash.",
)
@click.version_option(__version__, message="sidegate %(version)s")
@common
def sidegate() -> None:
    """Connections for the containers of one Docker node: HTTP and HTTPS to apps, private networks between apps and
    databases, public ports for databases.

    A daemon (`sidegate run`) does the work; all other verbs ask it, over its control socket. That is the one of
    --socket, else of SIDEGATE_RUNTIME_DIR, else the first of the usual places that has one.

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
@click.option(
    "--dev",
    is_flag=True,
    help="For the compose projects of your own machine, as an ordinary user in the group docker: ports 8080 and 8443 "
    "on loopback, no labels needed. Settings: ~/.config/sidegate/sidegate.toml where there is one.",
)
def run(config: Path | None, dev: bool) -> None:
    """Start the daemon, in the foreground, until SIGTERM or Ctrl-C.

    \b
    Examples:
      sidegate run --config sidegate.toml
      sidegate run --dev
    """
    from sidegate.main import run_daemon  # late: only this verb needs the daemon's libraries

    raise SystemExit(run_daemon(config, development=dev))


def main() -> None:
    """The console script."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by whoever started this
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115  # as long as the process
    if VARIABLE in os.environ:
        from sidegate.cli.completion import answer_shells

        answer_shells()
    sidegate(prog_name="sidegate")
