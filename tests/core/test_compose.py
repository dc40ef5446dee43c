"""Compose services without labels of ours: names, databases, ports, what is left out."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidegate.core import compose
from sidegate.core.compose import Service, host_of, names
from sidegate.core.desired import desire
from sidegate.core.labels import Discovery, discover
from sidegate.core.model import Container, Endpoint, Intent, Network, Pair, Rules, name_fault
from sidegate.core.newcomers import Newcomers, expect, joins
from sidegate.core.routes import DatabaseTarget
from states import ours, state

ALL = Rules(discover="all")
MARIADB = {"MARIADB_VERSION": "1:11.4.2+maria~ubu2404", "GOSU_VERSION": "1.17"}
MYSQL = {"MYSQL_VERSION": "8.0.37-1.el9", "MYSQL_MAJOR": "8.0"}
POSTGRES = {"PGDATA": "/var/lib/postgresql/data", "PG_MAJOR": "16"}
PHP = {"PHP_VERSION": "8.3.8"}


def service(
    name: str = "web",
    project: str = "shop",
    number: int = 1,
    *,
    image: str = "",
    env: dict[str, str] | None = None,
    image_env: dict[str, str] | None = None,
    exposed: tuple[int, ...] = (),
    bound: tuple[int, ...] = (),
    labels: dict[str, str] | None = None,
    **changes: object,
) -> Container:
    """A container as compose makes it."""
    values: dict[str, object] = {
        "id": f"{project}-{name}-{number}",
        "name": f"{project}-{name}-{number}",
        "image": image or f"{project}-{name}",
        "env": {**(image_env or {}), **(env or {})},
        "image_env": image_env or {},
        "labels": {
            compose.PROJECT: project,
            compose.SERVICE: name,
            compose.ONE_OFF: "False",
            compose.NUMBER: str(number),
            **(labels or {}),
        },
        "exposed_ports": tuple(sorted({*exposed, *bound})),
        "bound_ports": bound,
        "endpoints": (Endpoint(f"{project}_default", "172.20.0.9", frozenset({name})),),
        "created": f"2026-01-01T00:00:0{number}Z",
        "pid": 100,
        **changes,
    }
    return Container(**values)  # type: ignore[arg-type]


def found(*containers: Container, rules: Rules = ALL) -> Discovery:
    return discover(containers, rules)


def left_out(*containers: Container) -> dict[str, str]:
    return {one.container: one.reason for one in found(*containers).left_out}


# --- names

WORDS = st.text("abAB01_-.é", min_size=1, max_size=50)
SERVICES = st.sets(st.builds(Service, WORDS, WORDS), max_size=12)


@given(SERVICES, st.sets(st.sampled_from(["a-b", "a", "b-a", "a-b-a"]), max_size=3))
def test_names_are_valid_and_nobody_shares_one(services: set[Service], taken: set[str]) -> None:
    given_names = names(services, taken)
    assert given_names.keys() == services
    assert [name_fault(name) for name in given_names.values()] == [""] * len(services)
    assert len(set(given_names.values())) == len(services)
    assert not taken & set(given_names.values())


@given(st.lists(st.builds(Service, WORDS, WORDS), max_size=12), st.randoms())
def test_names_do_not_depend_on_who_was_seen_first(services: list[Service], random: object) -> None:
    shuffled = list(services)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert names(services) == names(shuffled)


@pytest.mark.parametrize(
    ("given_service", "name", "host"),
    [
        (Service("web", "shop"), "web-shop", "web.shop"),
        (Service("web_app", "my.shop"), "web-app-my-shop", "web-app.my-shop"),
        (Service("Web", "Shop"), "web-shop", "web.shop"),
        (Service("3d", "shop"), "s-3d-shop", "3d.shop"),
        (Service("_web_", "shop"), "web-shop", "web.shop"),
    ],
)
def test_a_name_is_service_and_project(given_service: Service, name: str, host: str) -> None:
    assert names([given_service]) == {given_service: name}
    assert host_of(given_service) == host


def test_a_name_that_is_too_long_ends_in_a_hash() -> None:
    long = Service("recommendations-worker", "international-storefront")
    assert names([long]) == {long: "recommendations-worker-internatio-8677ff"}
    assert names([long, Service("web", "shop")])[long] == names([long])[long]


def test_two_services_of_one_name_both_get_a_hash() -> None:
    one, other = Service("a-b", "c"), Service("a", "b-c")
    both = names([one, other])
    assert all(name.startswith("a-b-c-") for name in both.values())
    assert len(set(both.values())) == 2


def test_a_name_that_a_label_gives_is_nobody_elses() -> None:
    labelled = service("front", labels={"sidegate.app": "web-shop"}, exposed=(80,))
    apps = found(labelled, service("web", exposed=(80,))).apps
    assert "web-shop" in apps and len(apps) == 2
    assert apps["web-shop"].replicas[0].container is labelled


# --- what popular compose files hold


@dataclass(frozen=True)
class Case:
    """A service, and what becomes of it: app:PORT, an engine, or left:WORDS OF THE REASON."""

    name: str
    becomes: str
    image: str = ""
    env: tuple[str, ...] = ()
    image_env: tuple[tuple[str, str], ...] = ()
    exposed: tuple[int, ...] = ()
    bound: tuple[int, ...] = ()


def image_env(variables: dict[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple(variables.items())


LOGIN = ("MYSQL_HOST=db", "MYSQL_USER=shop", "MYSQL_PASSWORD=x", "MYSQL_DATABASE=shop")
SHARED = ("POSTGRES_HOST=db", "POSTGRES_USER=shop", "POSTGRES_PASSWORD=x", "POSTGRES_DB=shop", "PORT=8000")
CASES = [
    # databases, by the name of their image
    Case("db", "mariadb", "mariadb:11", ("MARIADB_ROOT_PASSWORD=x",), image_env(MARIADB), (3306,)),
    Case("db", "mariadb", "lscr.example/linuxserver/mariadb:latest", ("MYSQL_ROOT_PASSWORD=x",), (), (3306,)),
    Case("db", "mariadb", "bitnami/mariadb:11.4", ("MARIADB_ROOT_PASSWORD=x",), (), (3306,)),
    Case("db", "mysql", "mysql:8.0", ("MYSQL_ROOT_PASSWORD=x",), image_env(MYSQL), (3306, 33060), (3306,)),
    Case("db", "mysql", "mysql/mysql-server@sha256:" + "0" * 64, ("MYSQL_ROOT_PASSWORD=x",), (), (3306, 33060)),
    Case("db", "mysql", "percona:8", ("MYSQL_ROOT_PASSWORD=x",), (), (3306,)),
    Case("db", "mysql", "mysql", (), image_env(MYSQL), (3306, 33060)),
    Case("db", "postgres", "postgres:16-alpine", ("POSTGRES_PASSWORD=x",), image_env(POSTGRES), (5432,)),
    Case("db", "postgres", "postgis/postgis:16-3.4", ("POSTGRES_PASSWORD=x",), image_env(POSTGRES), (5432,)),
    Case("db", "postgres", "registry.example:5000/timescale/timescaledb", ("POSTGRES_PASSWORD=x",), (), (5432,)),
    Case("db", "postgres", "bitnami/postgresql:16", ("POSTGRESQL_PASSWORD=x",), (), (5432,)),
    Case("db", "postgres", "pgvector/pgvector:pg16", ("POSTGRES_PASSWORD=x",), image_env(POSTGRES), (5432,)),
    Case("db", "postgres", "postgres:16", SHARED, image_env(POSTGRES), (5432,)),
    Case("replica", "postgres", "postgres:16", SHARED, image_env(POSTGRES), (5432,)),
    # databases, by what their image is made from
    Case("db", "mariadb", "", ("MARIADB_ROOT_PASSWORD=x",), image_env(MARIADB), (3306,)),
    Case("db", "mysql", "", ("MYSQL_ALLOW_EMPTY_PASSWORD=yes",), (), (3306,)),
    Case("db", "mariadb", "sha256:" + "0" * 64, ("MARIADB_ROOT_PASSWORD_FILE=/run/secrets/root",), (), (3306,)),
    Case("db", "postgres", "", SHARED, image_env(POSTGRES), (5432,)),
    Case("postgres", "postgres", "", ("POSTGRES_HOST=shop-postgres-1", "POSTGRES_PASSWORD=x"), (), (5432,)),
    # apps that log in at one
    Case("wordpress", "app:80", "wordpress", ("WORDPRESS_DB_HOST=db", "WORDPRESS_DB_PASSWORD=x"), (), (80,), (80,)),
    Case("wordpress", "left:FastCGI", "wordpress:fpm", ("WORDPRESS_DB_HOST=db",), image_env(PHP), (9000,)),
    Case("nextcloud", "app:80", "nextcloud:29-apache", LOGIN, image_env(PHP), (80,), (80,)),
    Case("phpmyadmin", "app:80", "phpmyadmin", ("PMA_HOST=db", "MYSQL_ROOT_PASSWORD=x"), image_env(PHP), (80,)),
    Case("adminer", "app:8080", "adminer", ("ADMINER_DEFAULT_SERVER=db",), image_env(PHP), (8080,), (8080,)),
    Case("pgadmin", "app:80", "dpage/pgadmin4", ("PGADMIN_DEFAULT_EMAIL=a@b.example",), (), (80, 443), (80,)),
    Case("ghost", "app:2368", "ghost:5", ("database__connection__host=db",), (), (2368,), (2368,)),
    Case("gitea", "app:3000", "gitea/gitea", ("GITEA__database__HOST=db:3306",), (), (22, 3000), (22, 3000)),
    Case("django", "app:8000", "", ("MYSQL_ROOT_PASSWORD=x", "DB_HOST=db"), (), (), (8000,)),
    Case("flask", "app:5000", "", ("DATABASE_URL=mysql://db/shop",), (), (5000,)),
    Case("rails", "app:3000", "", SHARED[:-1], (), (), (3000,)),
    Case("node", "app:3000", "node:20", (), (), (), (3000, 9229)),
    Case("spring", "app:8080", "", ("SPRING_DATASOURCE_URL=jdbc:mysql://db/shop",), (), (5005,), (8080,)),
    Case("laravel", "app:80", "", ("DB_HOST=mysql", "DB_PASSWORD=x"), image_env(PHP), (8000,), (80, 5173)),
    Case("web", "app:8000", "", SHARED),
    Case("keycloak", "app:8080", "keycloak/keycloak", ("KC_DB_PASSWORD=x",), (), (8080, 8443)),
    Case("metabase", "app:3000", "metabase/metabase", ("MB_DB_HOST=db", "MB_DB_PASS=x"), (), (3000,)),
    Case("exporter", "app:9104", "prom/mysqld-exporter", ("DATA_SOURCE_NAME=root:x@(db:3306)/",), (), (9104,)),
    # jobs and tools of a database, which are none
    Case("backup", "left:PostgreSQL", "example/postgres-backup-local", SHARED[:4], image_env(POSTGRES), (5432,)),
    Case("dump", "left:PostgreSQL", "postgres:16", ("PGHOST=db", "PGUSER=shop"), image_env(POSTGRES), (5432,)),
    Case("seed", "left:MySQL", "mysql:8", ("MYSQL_HOST=db", "MYSQL_PWD=x"), image_env(MYSQL), (3306, 33060)),
    Case("pool", "left:PostgreSQL", "edoburu/pgbouncer", ("DB_HOST=db", "DB_PASSWORD=x"), (), (5432,)),
    Case("pool", "left:PostgreSQL", "pool", ("POSTGRESQL_HOST=db", "POSTGRES_PASSWORD=x"), (), (5432, 6432)),
    # workers and jobs
    Case("celery", "left:no port", "", SHARED[:-1]),
    Case("celery", "left:no port", "", ("MYSQL_ROOT_PASSWORD=x", "MYSQL_HOST=db")),
    Case("migrate", "left:no port", "", LOGIN),
    # other servers
    Case("redis", "left:Redis", "redis:7-alpine", (), (), (6379,), (6379,)),
    Case("redis", "left:Redis", "redis:7-alpine", ("PORT=8000",), (), (6379,)),
    Case("memcached", "left:memcached", "memcached", (), (), (11211,)),
    Case("mongo", "left:MongoDB", "mongo:7", ("MONGO_INITDB_ROOT_PASSWORD=x",), (), (27017,), (27017,)),
    Case("rabbitmq", "left:AMQP", "rabbitmq:3", (), (), (4369, 5671, 5672, 15691, 15692, 25672)),
    Case("rabbitmq", "app:15672", "rabbitmq:3-management", (), (), (4369, 5671, 5672, 15671, 15672, 15692, 25672)),
    Case("mailhog", "app:8025", "mailhog/mailhog", (), (), (1025, 8025), (1025, 8025)),
    Case("mailpit", "app:8025", "axllent/mailpit", (), (), (1025, 1110, 8025), (8025,)),
    Case("maildev", "app:1080", "maildev/maildev", (), (), (1025, 1080)),
    Case("traefik", "app:80", "traefik:v3", (), (), (80,), (80, 443, 8080)),
    Case("nginx", "app:80", "nginx:alpine", (), (), (80,), (80, 443)),
    Case("caddy", "app:80", "caddy:2", (), (), (80, 443, 2019), (80, 443)),
    Case("elasticsearch", "app:9200", "elasticsearch:8.14.1", (), (), (9200, 9300), (9200, 9300)),
    Case("kibana", "app:5601", "kibana:8.14.1", (), (), (5601,)),
    Case("minio", "app:9000", "minio/minio", (), (), (9000,), (9000, 9001)),
    Case("kafka", "left:Kafka", "apache/kafka", (), (), (9092,)),
    Case("zookeeper", "app:8080", "zookeeper", (), (), (2181, 2888, 3888, 8080)),
    Case("clickhouse", "app:8123", "clickhouse/clickhouse-server", (), (), (8123, 9000, 9009)),
    Case("neo4j", "app:7474", "neo4j:5", (), (), (7473, 7474, 7687)),
    Case("jenkins", "app:8080", "jenkins/jenkins:lts", (), (), (8080, 50000), (8080, 50000)),
    Case("mosquitto", "left:MQTT", "eclipse-mosquitto", (), (), (1883,)),
    Case("ldap", "left:LDAP", "osixia/openldap", (), (), (389, 636)),
    Case("sftp", "left:SSH", "atmoz/sftp", (), (), (22,)),
    Case("etcd", "left:etcd", "bitnami/etcd", (), (), (2379, 2380)),
    Case("grafana", "app:3000", "grafana/grafana", (), (), (3000,)),
    Case("prometheus", "app:9090", "prom/prometheus", (), (), (9090,)),
    Case("n8n", "app:5678", "n8nio/n8n", ("DB_POSTGRESDB_HOST=db",), (), (5678,), (5678,)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} {case.becomes}")
def test_what_a_service_becomes(case: Case) -> None:
    env = dict(variable.split("=", 1) for variable in case.env)
    container = service(
        case.name, image=case.image, env=env, image_env=dict(case.image_env), exposed=case.exposed, bound=case.bound
    )
    outcome = found(container)
    assert outcome.problems == ()
    name, kind, rest = f"{case.name}-shop", *case.becomes.partition(":")[::2]
    if kind == "app":
        assert outcome.apps[name].replicas[0].port == int(rest)
        assert outcome.hosts == {f"{case.name}.shop": name}
    elif kind == "left":
        assert not outcome.apps and not outcome.databases
        assert rest in outcome.left_out[0].reason
    else:
        assert outcome.databases[name].engine == kind
    assert bool(outcome.left_out) == (kind == "left")


# --- discovery


def test_without_the_setting_only_labels_count() -> None:
    outcome = found(service(exposed=(80,)), rules=Rules())
    assert outcome == Discovery({}, {})


def test_several_containers_of_a_service_are_replicas() -> None:
    apps = found(service(number=2, exposed=(80,)), service(number=1, exposed=(80,))).apps
    assert [replica.container.name for replica in apps["web-shop"].replicas] == ["shop-web-1", "shop-web-2"]


def test_a_second_container_of_a_database_is_a_problem() -> None:
    outcome = found(service("db", image="mariadb"), service("db", number=2, image="mariadb"))
    assert outcome.databases["db-shop"].container.name == "shop-db-1"
    assert [str(problem) for problem in outcome.problems] == [
        "shop-db-2: the database 'db-shop' is shop-db-1 already, which is older: a database is one container"
    ]


@pytest.mark.parametrize(
    ("container", "reason"),
    [
        (service(exposed=(80,), labels={compose.ONE_OFF: "True"}), "is a one-off container of `docker compose run`"),
        (service(exposed=(80,), labels={"sidegate.enable": "false"}), "has sidegate.enable=false"),
        (
            service(exposed=(80,), labels={"com.docker.swarm.task.id": "x"}),
            "is a swarm task, which Sidegate does not support",
        ),
        (Container("1", "shop-web-1"), "has no compose project and no label sidegate.app or sidegate.database"),
        (
            service(),
            "has no port: nothing is published, exposed or given as PORT; "
            "sidegate.port=NUMBER makes it an app all the same",
        ),
        (
            service(exposed=(6379, 22)),
            "speaks no plain HTTP: its ports are 22 (SSH), 6379 (Redis); "
            "sidegate.port=NUMBER makes it an app all the same",
        ),
    ],
)
def test_what_is_left_out_says_why(container: Container, reason: str) -> None:
    assert left_out(container) == {"shop-web-1": reason}


def test_labels_that_are_given_win() -> None:
    labels = {"sidegate.app": "front", "sidegate.port": "9000", "sidegate.domains": "shop.example.com"}
    outcome = found(service(exposed=(80,), labels=labels))
    assert outcome.apps["front"].replicas[0].port == 9000
    assert outcome.hosts == {"web.shop": "front"}
    assert outcome.services == {}


def test_a_port_label_alone_makes_a_worker_an_app() -> None:
    outcome = found(service("celery", labels={"sidegate.port": "5555"}))
    assert outcome.apps["celery-shop"].replicas[0].port == 5555
    assert outcome.services == {"celery-shop": Service("celery", "shop")}


def test_an_engine_label_alone_makes_a_database() -> None:
    outcome = found(service("db", image="own/db", labels={"sidegate.engine": "postgres"}))
    assert outcome.databases["db-shop"].engine == "postgres"


def test_labels_of_ours_without_a_name_and_without_compose_are_a_problem_as_ever() -> None:
    outcome = found(Container("1", "web", labels={"sidegate.port": "80"}))
    assert "neither sidegate.app nor sidegate.database" in outcome.problems[0].text


def test_an_image_that_compose_built_is_nobodys_service_when_somebody_runs_it() -> None:
    inherited = {compose.PROJECT: "shop", compose.SERVICE: "web"}
    assert left_out(Container("1", "mine", labels=inherited, image_labels=inherited, exposed_ports=(80,))) == {
        "mine": "has no compose project and no label sidegate.app or sidegate.database"
    }
    assert "web-shop" in found(service(exposed=(80,), image_labels=inherited)).apps
    committed = inherited | {compose.NUMBER: "1", compose.CONFIG_HASH: "a"}
    by_hand = Container("1", "mine", labels=committed, image_labels=committed, exposed_ports=(80,))
    assert left_out(by_hand).keys() == {"mine"}
    by_compose = service(exposed=(80,), labels={compose.CONFIG_HASH: "b"}, image_labels=committed)
    assert "web-shop" in found(by_compose).apps


def test_two_projects_that_come_to_one_host_the_earlier_keeps_it() -> None:
    late = service(project="my_shop", exposed=(80,), created="2026-01-02")
    outcome = found(late, service(project="my-shop", exposed=(80,), created="2026-01-01"))
    first, second = sorted(outcome.apps, key=lambda name: outcome.apps[name].replicas[0].container.created)
    assert outcome.hosts == {"web.my-shop": first}
    assert [str(problem) for problem in outcome.problems] == [
        f"{second}: does not answer at web.my-shop.localhost: the app {first} does, which is older"
    ]


# --- newcomers


def expected(*containers: Container) -> Newcomers:
    """What the greeter is told while web-shop and db-shop are connected."""
    networks = (
        ours("sidegate-home--db-shop", "10.213.0.0/27", "db-shop"),
        ours("sidegate-db-shop--web-shop", "10.213.0.32/27", "db-shop", "web-shop"),
    )
    engine = state(*containers, networks=networks)
    intent = Intent(connections=frozenset({Pair.of("web-shop", "db-shop")}))
    return expect(desire(intent, engine, ALL), engine, ALL)


DATABASE = service("db", image="mariadb", exposed=(3306,))
SHOP = Network("n1", "shop_default", subnets=("172.20.0.0/16",))
JOIN = (("sidegate-db-shop--web-shop", frozenset({"web-shop", "web-shop.internal"})),)


def test_a_new_container_of_a_service_is_expected_on_its_networks() -> None:
    """Also the first one after `docker compose down`, of which nothing but its labels is known."""
    for newcomers in (expected(DATABASE, service(exposed=(80,))), expected(DATABASE)):
        assert joins(service(number=2, state="created"), newcomers) == JOIN
        assert joins(service("db", number=2, state="created"), newcomers) == ()


@pytest.mark.parametrize(
    "labels", [{compose.ONE_OFF: "True"}, {"sidegate.enable": "false"}, {"sidegate.instance": "another"}]
)
def test_who_is_nobodys_is_not_expected(labels: dict[str, str]) -> None:
    assert joins(service(labels=labels), expected(DATABASE)) == ()


def test_without_the_setting_nobody_without_a_label_is_expected() -> None:
    assert joins(service(), Newcomers(apps={"web-shop": JOIN})) == ()


# --- routes and problems


def test_a_service_answers_at_its_project_and_by_its_name() -> None:
    desired = desire(Intent(), state(service(exposed=(80,)), networks=(SHOP,)), ALL)
    assert {host: paths[0].app for host, paths in desired.routes.hosts.items()} == {
        "web-shop.localhost": "web-shop",
        "web.shop.localhost": "web-shop",
    }
    assert desired.problems == ()


def test_a_domain_that_somebody_has_asked_for_goes_before_a_services_host() -> None:
    other = service("front", labels={"sidegate.domains": "web.shop.localhost"}, exposed=(80,))
    desired = desire(Intent(), state(service(exposed=(80,)), other, networks=(SHOP,)), ALL)
    assert desired.routes.hosts["web.shop.localhost"][0].app == "front-shop"
    assert [str(problem) for problem in desired.problems] == [
        "web-shop: does not answer at web.shop.localhost: the app front-shop has it as a domain"
    ]


def test_what_a_compose_file_shares_is_no_problem_where_nothing_is_to_be_changed() -> None:
    database, stranger = service("db", image="mariadb"), service(project="other", exposed=(80,))
    reporting = Rules(discover="all", isolation="report")
    shared = replace(stranger, endpoints=(Endpoint("shop_default", "172.20.0.8"),))
    alone = state(database, service(exposed=(80,)), networks=(SHOP,))
    assert desire(Intent(), alone, reporting).problems == ()
    assert [problem.subject for problem in desire(Intent(), alone, ALL).problems] == ["db-shop"]
    labelled = service("db", image="mariadb", labels={"sidegate.database": "db-shop", "sidegate.engine": "mariadb"})
    on_a_node = desire(Intent(), state(labelled, service(exposed=(80,)), networks=(SHOP,)), Rules(isolation="report"))
    assert [problem.subject for problem in on_a_node.problems] == ["db-shop"]  # as ever where labels alone count
    joined = state(database, shared, networks=(SHOP,))
    assert "without a connection, by other-web-1" in desire(Intent(), joined, reporting).problems[0].text


def test_a_database_is_dialled_at_its_own_port_where_nothing_can_redirect() -> None:
    home = ours("sidegate-home--db-shop", "10.213.0.0/27", "db-shop")
    there = (Endpoint(home.name, "10.213.0.2"),)
    engine = state(service("db", image="postgres", endpoints=there), networks=(home,))
    for rules, port in ((ALL, 3306), (replace(ALL, namespaces=False), 5432)):
        assert desire(Intent(), engine, rules).routes.databases["db-shop"] == DatabaseTarget("10.213.0.2", port)


def test_the_container_that_we_run_in_is_nobody() -> None:
    own = service("sidegate", exposed=(80,))
    assert found(own, rules=replace(ALL, self_id=own.id)) == Discovery({}, {})
