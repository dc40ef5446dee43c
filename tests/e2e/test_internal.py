"""Internal connections on a real engine: an app and a database alone together, and nobody else."""

import socket
import subprocess
from collections.abc import Callable, Iterator

import pytest
from websockets.sync.client import connect as websocket

from e2e.node import PASSWORD, Node, run, wait_for

CONNECT = "import socket, sys; sys.exit(not socket.create_connection((sys.argv[1], 3306), 2).recv(1))"
"""A server greets; a network's gateway may take connections to any address."""
# A client that runs one statement and exits 7 when its connection breaks meanwhile.
CLIENT = """
import os, sys, time, pymysql
c = pymysql.connect(host=os.environ["DB_HOST"], user=os.environ["DB_USER"], password=os.environ["DB_PASSWORD"],
                    database=os.environ["DB_NAME"])
cursor = c.cursor()
print("connected", flush=True)
try:
    if sys.argv[1] == "idle":
        c._sock.recv(1)
        raise SystemExit(7)
    while True:
        cursor.execute(sys.argv[1])
        cursor.fetchall()
        time.sleep(0.002)  # busy, and yet no two of these take both cores from everybody else
except (pymysql.Error, OSError) as error:
    print(error, flush=True)
    raise SystemExit(7)
"""


@pytest.fixture
def apps(node: Node) -> Iterator[Callable[..., str]]:
    """Start apps by name; their containers and connections go after the test."""
    made: list[str] = []

    def start(app: str, *options: str, name: str = "") -> str:
        made.append(node.container(name or app))
        return node.app(app, *options, name=name)

    yield start
    for pair in node.json("connections"):
        node.cli("disconnect", pair["a"], pair["b"], "--yes")
    for container in made:
        node.docker("rm", "-f", container, check=False)


def reaches(node: Node, container: str, host: str) -> bool:
    return not node_exec(node, container, "python3", "-c", CONNECT, host).returncode


def node_exec(node: Node, container: str, *command: str) -> subprocess.CompletedProcess[str]:
    return run("docker", "exec", container, *command, check=False, env=node.environ)


def client(node: Node, container: str, statement: str) -> subprocess.Popen[str]:
    """A MariaDB client in an app's container, connected when this returns."""
    command = ["docker", "exec", container, "python3", "-c", CLIENT, statement]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=node.environ)
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    return process


def test_the_connected_app_reads_rows_and_the_other_can_neither_resolve_nor_reach(
    node: Node, shop_db: str, apps: Callable[..., str]
) -> None:
    """R12, must show 2: both started with plain `docker run`, on the default bridge like everything else there."""
    node.cli("connect", "shop", "shop-db", "--env")
    shop = apps("shop", *node.env_options("shop"))
    blog = apps("blog")
    wait_for("shop serves", lambda: node.get("shop.localhost").status == 200)
    page = node.get("shop.localhost").body
    assert "shop-db.internal:3306" in page
    assert "Teapot" in page

    assert reaches(node, shop, "shop-db.internal")
    assert reaches(node, shop, "shop-db")
    for name in ("shop-db", "shop-db.internal", shop_db):
        assert node_exec(node, blog, "getent", "hosts", name).returncode != 0
    addresses = node.addresses(shop_db)
    assert len(addresses) >= 2
    for address in addresses:
        assert not reaches(node, blog, address), f"an unconnected app reaches {address}"
    other = ["--label", "sidegate.database=other-db", "--label", "sidegate.engine=mariadb"]
    rival = node.docker_run("other-db", *other, image="sidegate-base", command=["sleep", "infinity"])
    wait_for("the other database is home", lambda: f"{node.name}-home--other-db" in node.networks())
    for address in node.addresses(shop_db):
        knock = f"exec 3<>/dev/tcp/{address}/3306"
        assert node_exec(node, rival, "timeout", "2", "bash", "-c", knock).returncode != 0, (
            "another database reaches it"
        )
    node.docker("rm", "-f", rival)
    assert not [problem for problem in node.problems() if "shop-db" in problem]


def test_a_connection_takes_effect_on_running_containers_and_every_replica(
    node: Node, shop_db: str, apps: Callable[..., str]
) -> None:
    """B2, B3: no restart; replicas that come later are in before they start."""
    first, second = apps("shop", name="shop-1"), apps("shop", name="shop-2")
    node.cli("connect", "shop-db", "shop")  # R9, R10: from the database's side it is the same
    assert reaches(node, first, "shop-db.internal")
    assert reaches(node, second, "shop-db.internal")
    third = apps("shop", name="shop-3")
    wait_for("the late replica is connected", lambda: reaches(node, third, "shop-db.internal"))


def test_app_to_app_works_both_ways_and_duplicates_are_refused(node: Node, apps: Callable[..., str]) -> None:
    """B1."""
    one, other = apps("one"), apps("other")
    node.cli("connect", "one", "other")
    wait_for("both answer", lambda: node.get("one.localhost").status == node.get("other.localhost").status == 200)
    for source, target in ((one, "other.internal"), (other, "one.internal")):
        fetch = f"import urllib.request as u; u.urlopen('http://{target}:8080/healthz')"
        fetched = node_exec(node, source, "python3", "-c", fetch)
        assert fetched.returncode == 0, fetched.stderr
    for words in (("one", "other"), ("other", "one")):
        status, text = node.refusal("connect", *words)
        assert status == 5
        assert "connected already" in text
    assert node.refusal("connect", "one", "one")[0] == 5


def test_what_an_app_says_to_its_database_passes_no_process_of_ours(
    node: Node, shop_db: str, apps: Callable[..., str]
) -> None:
    """R3: while they talk nothing on the host has a socket to either of them, and their network leads nowhere else.
    R33: it is removed from the database's side as well."""
    node.cli("connect", "shop", "shop-db", "--env")
    talking = client(node, apps("shop", *node.env_options("shop")), "SELECT 1")
    network = node.container("shop--shop-db")
    assert node.docker("network", "inspect", "-f", "{{.Internal}}", network) == "true"
    subnet = node.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Subnet}}", network)
    assert run("ss", "-H", "-tn", "dst", subnet).stdout == ""
    assert node.sessions(shop_db)
    node.cli("disconnect", "shop-db", "shop", "--yes")
    with talking:
        assert talking.wait(20) == 7


BUSY = "SELECT BENCHMARK(2000000000, SHA2('x', 512))"


@pytest.mark.parametrize("statement", ["idle", "SELECT 1", "SELECT SLEEP(60)", BUSY])
def test_disconnect_ends_open_sessions_at_both_ends_and_no_others(
    node: Node, shop_db: str, apps: Callable[..., str], statement: str
) -> None:
    """R35, must show 2: within 2 s the client has its error and the process list is empty of it."""
    for app in ("shop", "blog"):
        node.cli("connect", app, "shop-db", "--env")
    shop = apps("shop", *node.env_options("shop"))
    blog = apps("blog", *node.env_options("blog"))
    bystander = client(node, blog, "SELECT 1")
    [kept] = node.sessions(shop_db)
    victim = client(node, shop, statement)
    assert len(node.sessions(shop_db)) == 2
    node.cli("disconnect", "shop", "shop-db", "--yes")
    assert victim.wait(timeout=20) == 7
    wait_for("the server has forgotten the session", lambda: node.sessions(shop_db) == [kept])
    assert bystander.poll() is None
    assert not reaches(node, shop, "shop-db.internal")
    node.cli("disconnect", "blog", "shop-db", "--yes")
    assert bystander.wait(timeout=20) == 7
    for process in (bystander, victim):
        process.communicate()


@pytest.mark.needs("sockets destroyed")
def test_disconnecting_two_apps_ends_their_sessions_at_both_ends(node: Node, apps: Callable[..., str]) -> None:
    """B1, R35: no database engine is there to help."""
    one, other = apps("one"), apps("other")
    node.cli("connect", "one", "other")
    serve = "import socket; s = socket.create_server(('', 9)).accept()[0]; print('accepted', flush=True); s.recv(1)"
    ask = (
        "import socket; s = socket.create_connection(('other.internal', 9)); print('connected', flush=True); s.recv(1)"
    )
    ends = []
    for container, code, word in ((other, serve, ""), (one, ask, "connected\n")):
        command = ["docker", "exec", "-u", "root", container, "python3", "-c", code]
        end = subprocess.Popen(command, stdout=-1, stderr=-1, text=True, env=node.environ)
        ends.append(end)
        assert end.stdout is not None
        if word:
            assert end.stdout.readline() == word
        else:
            wait_for("it listens", lambda: ":9 " in node_exec(node, other, "ss", "-Hltn").stdout)
    node.cli("disconnect", "one", "other", "--yes")
    for end in ends:
        _, error = end.communicate(timeout=20)
        assert end.returncode == 1, "it went on as if nothing had happened"
        assert "ConnectionAbortedError" in error


def test_websockets_pass_and_an_app_ends_gracefully(node: Node, apps: Callable[..., str]) -> None:
    """The sample app through the real proxy."""
    shop = apps("shop")
    wait_for("it serves", lambda: node.get("shop.localhost").status == 200)
    with (
        socket.create_connection(("127.0.0.1", node.http_port)) as connection,
        websocket(f"ws://shop.localhost:{node.http_port}/ws", sock=connection) as echo,
    ):
        for message in ("hello", "x" * 100_000, b"\0\1"):
            echo.send(message)
            assert echo.recv() == message
    node.docker("stop", "-t", "8", shop)
    assert node.docker("inspect", "-f", "{{.State.ExitCode}}", shop) == "0"


def test_a_second_pass_on_the_real_engine_does_nothing(node: Node, shop_db: str, apps: Callable[..., str]) -> None:
    """Must show 9: planning twice plans nothing."""
    node.cli("connect", "shop", "shop-db")
    apps("shop")
    wait_for("it is up", lambda: node.json("connections")[0]["state"] == "up")
    wait_for("it serves", lambda: node.get("shop.localhost").status == 200)
    node.cli("external", "off", "shop-db")  # already off: wakes a pass and waits for it
    assert node.json("status")["last_pass"]["actions"] == 0


def test_a_stopped_app_that_was_disconnected_starts_again(node: Node, shop_db: str, apps: Callable[..., str]) -> None:
    """PITFALLS 28: a network removed under a stopped container would make its next start fail."""
    shop = apps("shop")
    node.cli("connect", "shop", "shop-db")
    node.docker("stop", "-t", "1", shop)
    node.cli("disconnect", "shop", "shop-db", "--yes")
    node.docker("start", shop)
    wait_for("it serves", lambda: node.get("shop.localhost").status == 200)


@pytest.mark.needs("newcomers held")
def test_a_start_command_that_asks_once_gets_its_answer(node: Node, shop_db: str) -> None:
    """R22, B2, must show 4: on the network before its first instruction; ten of ten each way, with no retry."""
    node.cli("connect", "job", "shop-db", "--env")
    label = [*node.ours, "--label", "sidegate.app=job"]
    query = ["sidegate-sample-app", "python3", "/app/app.py", "query", "SELECT word FROM greetings"]
    for _ in range(10):
        assert "good morning" in node.docker("run", "--rm", *label, *node.env_options("job"), *query)
        # Nothing is quicker to ask than this, and nothing sends its start sooner than `run -d`.
        quick = node.docker("run", "-d", *label, "sidegate-base", "getent", "hosts", "shop-db.internal")
        try:
            assert node.docker("wait", quick) == "0"
        finally:
            node.docker("rm", "-f", quick)
    node.cli("disconnect", "job", "shop-db", "--yes")


def test_variables_are_the_databases_own_and_survive_literally(node: Node, shop_db: str) -> None:
    """R13, R14, B4: nobody types them; a password with quotes, a dollar and a blank arrives as it is."""
    added = node.json("connect", "later", "shop-db", "--env", "--rename", "DB_HOST=MYSQL_HOST")
    try:
        stored = node.json("env", "export", "later", "--format", "json")
        assert stored["MYSQL_HOST"] == "shop-db.internal"
        assert stored["DB_PORT"] == "3306"
        assert stored["DB_PASSWORD"] == PASSWORD
        assert "DB_HOST" not in stored
        assert "docker run" in added["start_command"]
        assert PASSWORD not in node.cli("env", "ls", "later").stdout
        printed = node.cli("env", "export", "later", "--format", "shell").stdout
        shell = subprocess.run(
            ["sh", "-c", f'{printed}\nprintf %s "$DB_PASSWORD"'], capture_output=True, text=True, check=True
        )
        assert shell.stdout == PASSWORD
    finally:
        node.cli("disconnect", "later", "shop-db", "--yes")


def test_an_image_that_claims_another_apps_name_or_domain_gets_neither(node: Node, apps: Callable[..., str]) -> None:
    """Must show 5: whoever builds an image could otherwise join somebody else's app."""
    shop = apps("shop", "--label", "sidegate.domains=shop.example")
    wait_for("shop serves", lambda: node.get("shop.example").status == 200)
    claims = ("sidegate.app=shop", "sidegate.domains=shop.example", "sidegate.instance=''")
    changes = [word for claim in claims for word in ("-c", f"LABEL {claim}")]
    evil = node.container("evil")
    node.docker("commit", *changes, shop, evil)
    try:
        node.docker_run("evil-1", image=evil)
        wait_for("it is reported", lambda: any("an image cannot say" in p for p in node.problems()))
        replicas = node.json("app", "show", "shop")["replicas"]
        assert [r["container"] for r in replicas] == [shop]
    finally:
        node.docker("rm", "-f", node.container("evil-1"))
        node.docker("rmi", evil)


def test_a_build_container_is_never_connected(node: Node, shop_db: str, apps: Callable[..., str]) -> None:
    """R20: internal connections are not there during a build."""
    node.cli("connect", "shop", "shop-db")
    builder = apps("shop", "--label", "sidegate.phase=build", name="builder")
    apps("shop")
    wait_for("the app is connected", lambda: node.json("connections")[0]["state"] == "up")
    assert not reaches(node, builder, "shop-db.internal")
