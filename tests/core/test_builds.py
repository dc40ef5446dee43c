"""What builds are told of connections (R21, R25), and how their output becomes lines."""

import pytest

from sidegate.core import builds
from sidegate.core.builds import BuildLog
from sidegate.core.gates import Gate
from sidegate.core.model import External, Variable
from sidegate.errors import InvalidInputError

KNOWN = frozenset({"shop", "shop-db", "db", "api"})
NAMED = {
    "mariadb": "ERROR 2005 (HY000): Unknown server host 'shop-db.internal' (-2)",
    "mysql": "ERROR 2005 (HY000): Unknown MySQL server host 'shop-db.internal' (-3)",
    "PyMySQL": "pymysql.err.OperationalError: (2003, \"Can't connect to MySQL server on 'shop-db.internal' ([Errno -2] "
    'Name or service not known)")',
    "mysql-connector-python": "2003 (HY000): Can't connect to MySQL server on 'shop-db.internal:3306' (-2 Name or "
    "service not known)",
    "mysqlclient": "django.db.utils.OperationalError: (2005, \"Unknown server host 'shop-db.internal' (-3)\")",
    "psql": 'psql: error: could not translate host name "shop-db.internal" to address: Name or service not known',
    "psycopg": 'connection to server failed: could not translate host name "shop-db.internal" to address: Temporary '
    "failure in name resolution",
    "psycopg 3": "psycopg.OperationalError: failed to resolve host 'shop-db.internal': [Errno -2] Name or service not "
    "known",
    "node": "Error: getaddrinfo ENOTFOUND shop-db.internal",
    "node, offline": "Error: getaddrinfo EAI_AGAIN shop-db.internal",
    "node, object": "  errno: -3008, code: 'ENOTFOUND', syscall: 'getaddrinfo', hostname: 'shop-db.internal' }",
    "sequelize": "SequelizeHostNotFoundError: getaddrinfo ENOTFOUND shop-db.internal",
    "prisma": "Error: P1001: Can't reach database server at `shop-db.internal:3306`",
    "ruby": "Failed to open TCP connection to shop-db.internal:3306 (getaddrinfo: Name or service not known)",
    "mysql2": "Mysql2::Error::ConnectionError: Unknown MySQL server host 'shop-db.internal' (-2)",
    "php": "PHP Warning:  mysqli::__construct(): php_network_getaddresses: getaddrinfo for shop-db.internal failed: "
    "Name or service not known in /app/migrate.php on line 3",
    "go": "2024/05/01 10:00:00 dial tcp: lookup shop-db.internal on 127.0.0.11:53: no such host",
    "go, cgo": "dial tcp: lookup shop-db.internal: Temporary failure in name resolution",
    "go, failing server": "dial tcp: lookup shop-db.internal on 10.0.0.2:53: server misbehaving",
    "java": "Caused by: java.net.UnknownHostException: shop-db.internal: Name or service not known",
    ".net": "System.Net.Sockets.SocketException (11): Resource temporarily unavailable: Temporary failure in name "
    "resolution (shop-db.internal:3306)",
    "elixir": "** (DBConnection.ConnectionError) tcp connect (shop-db.internal:3306): non-existing domain - :nxdomain",
    "curl": "curl: (6) Could not resolve host: shop-db.internal",
    "curl, old": "curl: (6) Couldn't resolve host 'shop-db.internal'",
    "wget": "wget: unable to resolve host address 'shop-db.internal'",
    "busybox": "wget: bad address 'shop-db.internal:3306'",
    "ping": "ping: shop-db.internal: Name or service not known",
    "musl": "ping: shop-db.internal: Name does not resolve",
    "netcat": 'nc: getaddrinfo for host "shop-db.internal" port 3306: Name or service not known',
    "redis-cli": "Could not connect to Redis at shop-db.internal:6379: Name or service not known",
    "upper case": "Unknown MySQL server host 'SHOP-DB.INTERNAL' (-2)",
    "short name": "ERROR 2005 (HY000): Unknown server host 'shop-db' (-3)",
    "short name, node": "Error: getaddrinfo ENOTFOUND shop-db",
    "short name, go": "dial tcp: lookup shop-db on 127.0.0.11:53: no such host",
}
NAMELESS = {
    "python": "socket.gaierror: [Errno -2] Name or service not known",
    "asyncpg": "socket.gaierror: [Errno -3] Temporary failure in name resolution",
    "ruby": "SocketError: getaddrinfo: Name or service not known",
    "php": "SQLSTATE[HY000] [2002] php_network_getaddresses: getaddrinfo failed: Name or service not known",
    "rust": 'Error: Io(Custom { error: "failed to lookup address information: Name or service not known" })',
}
OTHERS = [
    "E: Failed to fetch http://deb.debian.org/debian/x.deb  Temporary failure resolving 'deb.debian.org'",
    "curl: (6) Could not resolve host: registry.npmjs.org",
    "npm error code ENOTFOUND npm error request to https://registry.npmjs.org/x failed, reason: getaddrinfo ENOTFOUND "
    "registry.npmjs.org",
    "go: golang.org/x/net: dial tcp: lookup proxy.golang.org: no such host",
    "Failed to open TCP connection to rubygems.org:443 (getaddrinfo: Name or service not known)",
    "curl: (6) Could not resolve host: metadata.google.internal",
    "curl: (6) Could not resolve host: mirror.internal",
    "curl: (6) Could not resolve host: shop-db.internal.example.com",
    "php_network_getaddresses: getaddrinfo for packagist.org failed: Temporary failure in name resolution",
]


@pytest.mark.parametrize("line", NAMED.values(), ids=NAMED.keys())
def test_a_failed_look_up_is_known_and_its_name_found(line: str) -> None:
    log = BuildLog()
    log.feed(f"connecting ...\n{line}\n")
    assert log.failed_lookups == [line.rstrip()]
    assert builds.looked_up(log.failed_lookups, KNOWN, ()) == "shop-db"


@pytest.mark.parametrize("line", NAMELESS.values(), ids=NAMELESS.keys())
def test_where_the_name_is_left_out_it_is_the_one_that_the_build_was_given(line: str) -> None:
    log = BuildLog()
    log.feed(line + "\n")
    assert builds.looked_up(log.failed_lookups, KNOWN, {"shop-db"}) == "shop-db"
    assert builds.looked_up(log.failed_lookups, KNOWN, ()) == ""


@pytest.mark.parametrize("line", OTHERS)
def test_other_names_are_none_of_ours(line: str) -> None:
    """Also where a variable holds an internal name: it is not what failed."""
    assert builds.looked_up([line], KNOWN, {"shop-db"}) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Step 3/4 : RUN make",
        "connected to shop-db.internal",
        "ERROR 1045 (28000): Access denied for user 'shop'@'x'",
        "",
    ],
)
def test_what_is_no_failed_look_up(text: str) -> None:
    log = BuildLog()
    log.feed(text + "\n")
    assert log.failed_lookups == []


def test_nobody_is_known() -> None:
    assert builds.looked_up(["Unknown server host 'shop-db.internal'"], (), ()) == ""


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"DB_HOST": "shop-db.internal"}, {"shop-db": ("DB_HOST",)}),
        ({"URL": "mysql://shop:p%40ss@shop-db.internal:3306/shop?x=1"}, {"shop-db": ("URL",)}),
        ({"A": "x", "DSN": "host=shop-db.internal port=3306"}, {"shop-db": ("DSN",)}),
        ({"B": "http://api.internal:8080", "A": "shop-db.internal"}, {"api": ("B",), "shop-db": ("A",)}),
        ({"B": "db.internal", "A": "tcp(db.internal:3306)/x"}, {"db": ("A", "B")}),
        ({"HOST": "SHOP-DB.Internal"}, {"shop-db": ("HOST",)}),
        ({"DB_HOST": "shop-db"}, {"shop-db": ("DB_HOST",)}),
        ({"URL": "mysql://shop:x@shop-db/shop"}, {"shop-db": ("URL",)}),
        ({"URL": "http://shop-db"}, {"shop-db": ("URL",)}),
        ({"DB_NAME": "db", "X": "the db of the shop"}, {}),
        ({"URL": "mysql://u:p@shop-db.internal.example.com/x"}, {}),
        ({"URL": "http://metadata.google.internal/"}, {}),
        ({"PIP_INDEX_URL": "http://mirror.internal/simple"}, {}),
        ({"URL": "http://not-shop-db.internal/", "V": "my.shop-db.internal"}, {}),
        ({}, {}),
    ],
)
def test_internal_hosts_are_seen_before_the_build(values: dict[str, str], found: dict[str, tuple[str, ...]]) -> None:
    assert builds.internal_hosts(values, KNOWN) == found


def test_the_explanation_names_the_cause_and_both_ways_round_it() -> None:
    """R21, with the external connection off, then on, then for another app."""
    assert builds.explanation("shop", "shop-db", keys=("DB_HOST", "DB_URL"), database=True) == (
        "DB_HOST, DB_URL lead to shop-db.internal, an internal connection, and those are there at run time only: no "
        "build can resolve or reach it. Two ways round it: move the command that needs shop-db to the start command of "
        "shop, which runs with the connection; or give the build a variable of its own with the external details, "
        "which `sidegate external on shop-db` says: `sidegate env set shop DB_HOST=… DB_URL=… --scope build`"
    )
    text = builds.explanation("shop", "shop-db", database=True, details="203.0.113.7:30000")
    assert text.startswith("shop-db.internal is an internal connection, and those are there at run time only")
    assert "with the external details (203.0.113.7:30000), `sidegate env set shop DB_HOST=… --scope build`" in text
    text = builds.explanation("shop", "shop-db", keys=("A",), ports=("B",), shared=("A",), database=True)
    assert text.endswith(
        "`sidegate env rename shop A --new-scope runtime` leave the present one to run time, "
        "`sidegate env set shop A=… B=… --scope build` sets that of the build"
    )
    text = builds.explanation("shop", "api", keys=("API_URL",), database=False)
    assert text.startswith("API_URL leads to api.internal")
    assert text.endswith("or give the build a variable with the public address of api")


def external(port: int, enabled: bool) -> External:
    return External(Gate(port), enabled)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"DB_HOST": "203.0.113.7", "DB_PORT": "30000"}, {"shop-db": ("DB_HOST", "DB_PORT")}),
        ({"URL": "mysql://shop:x@203.0.113.7:30000/shop"}, {"shop-db": ("URL",)}),
        ({"DB_HOST": "203.0.113.7", "DB_PORT": "30001"}, {}),
        ({"URL": "mysql://shop:x@203.0.113.7:30001/shop"}, {}),
        ({"DB_HOST": "203.0.113.7"}, {}),
        ({"DB_PORT": "30000"}, {}),
        ({"URL": "mysql://x@203.0.113.7:300001/shop"}, {}),
        ({"URL": "mysql://x@1203.0.113.7:30000/shop", "V": "1.203.0.113.7:30000"}, {}),
    ],
)
def test_external_details_of_a_connection_that_is_off(
    values: dict[str, str], found: dict[str, tuple[str, ...]]
) -> None:
    """R25: shop-db's is off, db's is on."""
    externals = {"shop-db": external(30000, False), "db": external(30001, True)}
    assert builds.closed_doors(values, externals, "203.0.113.7") == found
    for name, keys in found.items():
        assert builds.closed_door(name, keys).endswith("cannot reach it before `sidegate external on shop-db`")


def test_a_builds_arguments_are_its_own_and_those_of_both_scopes() -> None:
    """R23."""
    variables = [Variable("A", "1", "build"), Variable("B", "2", "runtime"), Variable("C", "3", "both")]
    assert builds.arguments(variables, {"C": "4", "D": "5"}) == {"A": "1", "C": "4", "D": "5"}


@pytest.mark.parametrize(
    ("tag", "whole"),
    [
        ("shop", "shop:latest"),
        ("team/shop:1.2", "team/shop:1.2"),
        ("registry.example.com:5000/team/shop", "registry.example.com:5000/team/shop:latest"),
        ("sidegate/a-b_c.d:V1", "sidegate/a-b_c.d:V1"),
    ],
)
def test_tags(tag: str, whole: str) -> None:
    assert builds.check_tag(tag) == whole


@pytest.mark.parametrize("tag", ["", "Shop", "a b", "a:", ":a", "a/", "a@sha256:00", "a:b:c", "-a", "a" * 256, "a\n"])
def test_what_is_no_tag(tag: str) -> None:
    with pytest.raises(InvalidInputError, match="not an image's name"):
        builds.check_tag(tag)


def test_output_becomes_lines_wherever_it_was_cut() -> None:
    log = BuildLog()
    assert log.feed("Step 1/2 : RUN ma") == []
    assert log.feed("ke\none\ntw") == ["Step 1/2 : RUN make", "one"]
    assert log.feed("o\n\n") == ["two"]
    assert log.end() == []
    log.feed("rest")
    assert log.end() == ["rest"]
    assert log.step == "1/2 (RUN make)"


def test_output_without_an_end_is_not_kept_for_ever() -> None:
    log = BuildLog()
    for _ in range(10):
        log.feed("x" * builds.LINE_MOST)
    assert len("".join(log.end())) <= builds.LINE_MOST
    log.feed("Unknown server host 'a.internal'\n" * (builds.LOOKUPS_MOST + 1))
    assert len(log.failed_lookups) == builds.LOOKUPS_MOST


def test_nothing_that_a_terminal_would_obey_gets_through() -> None:
    log = BuildLog()
    text = "\x1b[31mred\x1b[0m\x1b]0;title\x07\n10%\r50%\r100%\r\n\x1b[2K\x1b[1Gdone\ttab\n"
    assert log.feed(text) == ["red", "100%", "done    tab"]
    assert log.feed("\x1b[1mbold\x1b(B\x1b[m \x1b7\x1b=\x1bc\x9b2J.\n") == ["bold ."]  # as of `tput sgr0`


def test_secret_values_are_hidden() -> None:
    log = BuildLog(["Secret-1", "Secret-1-long", "ab", "two\nlines-of-it"])
    lines = log.feed("x Secret-1 Secret-1-long ab lines-of-it\nSecr")
    assert lines == ["x *** *** ab ***"]
    assert log.feed("et-1\n") == ["***"]
    assert log.hide("(Secret-1)") == "(***)"
    assert BuildLog(["Tea & [1]"]).hide("mysql://shop:Tea%20%26%20%5B1%5D@db") == "mysql://shop:***@db"


def test_a_host_is_found_in_a_secret_too() -> None:
    url = "mysql://shop:Secret-1@shop-db.internal:3306/shop"
    log = BuildLog([url])
    assert log.feed(f"cannot connect to {url}: no such host\n") == ["cannot connect to ***: no such host"]
    assert builds.looked_up(log.failed_lookups, KNOWN, ()) == "shop-db"
    assert url not in "".join(log.last)


def test_the_last_lines_are_those_of_the_last_step() -> None:
    log = BuildLog()
    log.feed("Step 1/2 : FROM x\nearlier\nStep 2/2 : RUN y\n ---> Running in 1\n")
    log.feed("".join(f"{n}\n" for n in range(20)))
    log.feed("Removing intermediate container 1\n")
    assert log.last == [str(n) for n in range(20 - builds.LAST_LINES, 20)]
