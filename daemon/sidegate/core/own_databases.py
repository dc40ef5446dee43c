"""Databases whose containers Sidegate makes itself: what they are called, made from and logged in to."""

from sidegate.core.database_engines import DatabaseEngine
from sidegate.core.labels import DATABASE, ENGINE, INSTANCE
from sidegate.core.model import DEFAULT_INSTANCE, DatabaseDetails, OwnDatabase, Rules
from sidegate.core.passwords import QUOTELESS, generate
from sidegate.core.workloads import ContainerSpec, ImageInfo
from sidegate.errors import InvalidInputError

STOP_SECONDS = 60
"""A database that is killed has to recover at its next start: it gets longer than the engine's ten seconds."""

LONGEST_NAME = 32
"""What every engine takes as a user's name: MySQL's limit, the lowest."""

_SYSTEM_SCHEMAS = {
    "mysql": frozenset({"mysql", "sys", "information_schema", "performance_schema"}),
    "postgres": frozenset({"template0", "template1"}),
}


def container_name(database: str, rules: Rules) -> str:
    """Two dashes, as no app's containers have them in their names."""
    return f"{rules.instance}-db--{database}"


def volume_name(database: str, rules: Rules) -> str:
    return container_name(database, rules)


def first_login(database: str, engine: DatabaseEngine, user: str | None, schema: str | None) -> DatabaseDetails:
    """The login that a new database is made with: named after it where nobody says otherwise, passwords generated.

    They have no quotes in them, since images put them into statements and files of their own on the way.
    Raises InvalidInputError for a name that the server has already, or that it cannot take.
    """
    default = database.replace("-", "_")
    system = _SYSTEM_SCHEMAS[engine.protocol]
    user = check_login_name("user", user or default[:LONGEST_NAME].rstrip("_"))
    schema = check_login_name("schema", schema or (f"{default}_db" if default in system else default))
    if schema in system:
        raise InvalidInputError(f"the schema {schema} is the server's own: choose another")
    if user == engine.administrator and "root_password" in engine.variables:
        raise InvalidInputError(f"{user} is the administrator, whom the server has already: choose another user")
    root = generate(QUOTELESS) if "root_password" in engine.variables else ""
    return DatabaseDetails(user, generate(QUOTELESS), schema, root)


def check_login_name(what: str, name: str) -> str:
    """Return `name`, or raise InvalidInputError: letters, digits and underscores need no quoting anywhere."""
    if not (name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()):
        raise InvalidInputError(f"the {what} {name!r} must be made of letters, digits and _, and begin with no digit")
    if what == "user" and len(name) > LONGEST_NAME:
        raise InvalidInputError(f"the user {name} has {len(name)} characters, and {LONGEST_NAME} are the most")
    return name


def container_spec(
    database: str,
    own: OwnDatabase,
    engine: DatabaseEngine,
    image: ImageInfo,
    details: DatabaseDetails,
    rules: Rules,
    network: str,
) -> ContainerSpec:
    """Its container, on `network` and on no other."""
    labels = {DATABASE: database, ENGINE: engine.name}
    if rules.instance != DEFAULT_INSTANCE:
        labels[INSTANCE] = rules.instance
    given = {part: getattr(details, part) for part in engine.variables}
    return ContainerSpec(
        image=own.image,
        image_id=image.id,
        env={engine.variables[part][0]: value for part, value in given.items() if value},
        labels=labels,
        network=network,
        volumes={own.volume: data_directory(engine, image)},
        stop_timeout=STOP_SECONDS,
    )


def data_directory(engine: DatabaseEngine, image: ImageInfo) -> str:
    """Where the volume goes. PostgreSQL's image says in PGDATA where it keeps its data; since version 18 that is
    below a directory of the version's, and the volume belongs above it."""
    own = image.env.get("PGDATA", engine.data)
    if own == engine.data or own.startswith(engine.data + "/"):
        return engine.data
    return engine.data.rpartition("/")[0]
