"""What stands at the end of each help text: how the verb may exit, and which other verbs go with it."""

import click

EXIT_STATUS = (
    "Exit status: 0 done, 1 failed (or you said no), 2 usage or a wrong value, 3 daemon not reachable, "
    "4 no such thing, 5 refused."
)
LOCAL = "Exit status: 0 done, 2 usage."
RUN = "Exit status: 0 stopped as it was asked to, 1 it could not start or go on, 2 usage or a wrong setting."
FOLLOWED = "Exit status: 0 done, also after Ctrl-C; 1 failed, 2 usage or a wrong value, 3 daemon not reachable."

STATUSES = {"run": RUN, "help": LOCAL, "completion": LOCAL, "man": LOCAL, "events": FOLLOWED, "status": FOLLOWED}

RELATED = {
    "run": "status, doctor, purge",
    "status": "events, doctor, audit",
    "doctor": "status, run",
    "events": "status, audit, app logs",
    "metrics": "status, events",
    "audit": "events, status",
    "purge": "status, app rm, db rm",
    "app": "env, build, connect",
    "app ls": "app show, status",
    "app show": "app ls, app logs, env ls",
    "app deploy": "build, app redeploy, app domains, env set",
    "app redeploy": "app deploy, env set, app show",
    "app port": "app show, app redeploy",
    "app domains": "app show, cert ls",
    "app set": "app unset, app show, app pause",
    "app unset": "app set, app show",
    "app pause": "app resume, app maintenance",
    "app resume": "app pause, app maintenance",
    "app maintenance": "app pause, app resume",
    "app logs": "app show, events",
    "app rm": "app show, disconnect, purge",
    "env": "app redeploy, connect",
    "env ls": "env set, env export",
    "env set": "env ls, env unset, app redeploy",
    "env unset": "env ls, env set, app redeploy",
    "env rename": "env ls, connect",
    "env export": "env ls, build",
    "build": "app deploy, env set",
    "db": "connect, external",
    "db ls": "db show, external ls",
    "db show": "db ls, db credentials, external show",
    "db set": "db show, db password, db credentials",
    "db credentials": "db show, db password, external on",
    "db password": "db credentials, env ls, app redeploy",
    "db create": "connect, db credentials, db rm",
    "db rm": "db create, disconnect",
    "connect": "disconnect, connections, env ls, app redeploy",
    "disconnect": "connect, connections",
    "connections": "connect, disconnect, db show",
    "external": "db, connect",
    "external on": "external off, external allow, external show, db credentials",
    "external off": "external on, external sessions",
    "external show": "external ls, external sessions, db show",
    "external ls": "external show, db ls",
    "external allow": "external deny, external on, external show",
    "external deny": "external allow, external kick, external show",
    "external extend": "external on, external show",
    "external kick": "external sessions, external deny",
    "external sessions": "external kick, external show",
    "cert": "app domains, app set",
    "cert ls": "cert add, cert rm, cert ca",
    "cert add": "cert ls, cert rm",
    "cert rm": "cert ls, cert add",
    "cert ca": "cert ls",
    "help": "man, completion",
    "completion": "help, man",
    "man": "help, completion",
}


def add_endings(command: click.Command, path: str) -> None:
    """Give a verb, or a group and its verbs, their endings."""
    named = ", ".join(f"sidegate {verb}" for verb in RELATED.get(path, "help").split(", "))
    status = "" if "Exit status" in (command.help or "") else STATUSES.get(path, EXIT_STATUS) + "\n\n"
    command.epilog = f"{status}See also: {named}."
    if isinstance(command, click.Group):
        for name, verb in command.commands.items():
            add_endings(verb, f"{path} {name}")
