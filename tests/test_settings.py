import re
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from sidegate import settings
from sidegate.errors import SettingsError
from sidegate.settings import DEFAULTS, Settings, describe, load

EXAMPLE = Path(__file__).parents[1] / "config" / "sidegate.toml"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "sidegate.toml"


def faults(path: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environ or {})
    return str(caught.value).splitlines()


def test_the_example_file_names_every_key_once_with_its_default(file: Path) -> None:
    keys = re.findall(r"^#(\w+ = .*)$", EXAMPLE.read_text(), re.MULTILINE)
    file.write_text("\n".join(keys))
    assert load(file, {}) == Settings()
    assert sorted(keys) == sorted(f"{key.name} = {key.default}" for key in describe())


def test_the_example_file_changes_nothing_as_it_is() -> None:
    assert load(EXAMPLE, {}) == Settings()


def test_the_default_file_may_be_absent_and_a_named_one_may_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "DEFAULT_FILE", file)
    assert load(None, {}) == Settings()
    assert faults(file) == [f"{file}: there is no such file"]
    file.write_text("workers = 3")
    assert load(None, {}).workers == 3


def test_every_key_can_be_set_as_a_variable(file: Path) -> None:
    environ = {key.variable: key.default.strip('"') for key in describe()}
    file.write_text("workers = 3\nisolation = 'report'")
    assert load(file, environ) == Settings()


def test_values_have_the_types_that_the_program_uses(file: Path) -> None:
    file.write_text('external_ports = "4000-4001"\ninternal_pool = "10.9.0.0/20"\nbase_domain = "Apps.Example.COM"')
    read = load(file, {"SIDEGATE_STATE_DIR": "/srv/state", "SIDEGATE_TRUST_IMAGE_LABELS": "true"})
    assert read == Settings(
        external_ports=range(4000, 4002),
        internal_pool=IPv4Network("10.9.0.0/20"),
        base_domain="apps.example.com",
        state_dir=Path("/srv/state"),
        trust_image_labels=True,
    )


def test_a_variable_wins_even_over_a_wrong_value_in_the_file(file: Path) -> None:
    file.write_text("http_port = 'eighty'")
    assert load(file, {"SIDEGATE_HTTP_PORT": "8080"}).http_port == 8080


def test_a_caller_may_bring_other_defaults(file: Path) -> None:
    file.write_text("workers = 1")
    dev = replace(DEFAULTS, http_port=8080, isolation="report")
    assert load(file, {}, dev) == replace(dev, workers=1)


def test_all_faults_are_reported_at_once_with_key_value_source_and_reason(file: Path) -> None:
    file.write_text('htp_port = 80\nworkers = true\n[tls]\nemail = "a@example.com"')
    assert faults(file, {"SIDEGATE_LOGLEVEL": "info", "SIDEGATE_INSTANCE": "-x"}) == [
        f"htp_port = 80 (from {file}): there is no such setting; did you mean http_port?",
        f"workers = True (from {file}): must be a whole number",
        f"tls = {{'email': 'a@example.com'}} (from {file}): there is no such setting",
        "SIDEGATE_LOGLEVEL = 'info' (from the environment): there is no such setting; did you mean SIDEGATE_LOG_LEVEL?",
        "instance = '-x' (from SIDEGATE_INSTANCE): must be 1 to 20 of a-z, 0-9 and single dashes, "
        "beginning with a letter",
    ]


def test_variables_of_the_scripts_are_no_settings(file: Path) -> None:
    file.write_text("")
    assert load(file, {"SIDEGATE_CONFIG": "/x", "SIDEGATE_NO_PULL": "1", "PATH": "/bin"}) == Settings()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("state_dir = 'var/lib'", "must be an absolute path"),
        ("state_dir = '~/x'", "must be an absolute path"),
        ("state_dir = ''", "must be an absolute path"),
        ("state_dir = 7", "must be text"),
        ('state_dir = "/a\\u0000b"', "cannot be printed"),
        (f"runtime_dir = '/{'r' * 94}'", "is too long"),
        ("http_port = 0", "must be between 1 and 65535"),
        ("http_port = 65536", "must be between 1 and 65535"),
        ("http_port = 80.0", "must be a whole number"),
        ("http_port = '80'", "must be a whole number"),
        ("http_port = false", "must be a whole number"),
        ("http_port = 30500", 'lies within external_ports = "30000-30999" (the default)'),
        ("external_ports = '31000-30000'", "must begin with the lower port"),
        ("external_ports = '0-100'", "must lie between 1 and 65535"),
        ("external_ports = '60000-70000'", "must lie between 1 and 65535"),
        ("external_ports = '30000-'", "must be a range of ports"),
        ("external_ports = '٣٠٠٠'", "must be a range of ports"),
        ("external_ports = 30000", "must be text"),
        ("external_host = 'a b'", "must be a host name"),
        ("external_host = '10.0.0.300'", "must be a host name"),
        ("internal_pool = '10.213.0.0'", "does not fit into internal_pool = '10.213.0.0'"),
        ("internal_pool = '10.213.0.1/16'", "has host bits set"),
        ("internal_pool = '8.8.0.0/16'", "must lie in a private network"),
        ("internal_pool = '127.0.0.0/8'", "must lie in a private network"),
        ("internal_pool = '10.0.0.0/7'", "must lie in a private network"),
        ("internal_pool = '172.0.0.0/8'", "must lie in a private network"),
        ("internal_pool = 'fd00::/48'", "must be an IPv4 network"),
        ("internal_subnet = 30", "must be between 8 and 29"),
        ("internal_subnet = 12", 'does not fit into internal_pool = "10.213.0.0/16" (the default)'),
        ("base_domain = ''", "must be a host name"),
        ("base_domain = '*.example.com'", "must be a host name"),
        ("base_domain = 'a..b'", "must be a host name"),
        ("base_domain = '-a.example'", "must be a host name"),
        ("base_domain = '10.0.0.1'", "must be a host name"),
        ("base_domain = 'bücher.example'", "must be a host name"),
        ("isolation = true", "must be one of bridge, strict, report"),
        ("trust_image_labels = 'true'", "must be true or false"),
        ("trust_image_labels = 1", "must be true or false"),
        ("workers = -1", "must be between 0 and 256"),
        ("worker_user = 'root'", "must be a user of the workers' own"),
        ("worker_user = 'a b'", "must be the name of a user"),
        ("docker_host = '/run/docker.sock'", 'must be "unix:///path"'),
        ("docker_host = 'unix://docker.sock'", 'must be "unix:///path"'),
        ("instance = 'Side'", "must be 1 to 20"),
        ("instance = 'sidegate-production-1'", "must be 1 to 20"),
        ("isolation = 'none'", "must be one of bridge, strict, report"),
        ("forwarder = 'nftables'", "must be one of auto, kernel, userspace"),
        ("log_level = 'INFO'", "must be one of debug, info, warning, error"),
        ("resync_seconds = 0", "must be between 1 and 3600"),
        ("drain_seconds = inf", "must be a whole number"),
    ],
)
def test_a_wrong_value_is_refused_with_one_reason(file: Path, line: str, reason: str) -> None:
    file.write_text(line)
    (fault,) = faults(file)
    assert reason in fault
    assert str(file) in fault


@pytest.mark.parametrize(
    ("variable", "text", "reason"),
    [
        ("SIDEGATE_HTTP_PORT", "", "must be a whole number"),
        ("SIDEGATE_HTTP_PORT", " 80", "must be a whole number"),
        ("SIDEGATE_HTTP_PORT", "٨٠", "must be a whole number"),
        ("SIDEGATE_TRUST_IMAGE_LABELS", "yes", "must be true or false"),
        ("SIDEGATE_STATE_DIR", "state", "must be an absolute path"),
    ],
)
def test_a_wrong_variable_is_refused_and_named(file: Path, variable: str, text: str, reason: str) -> None:
    file.write_text("")
    (fault,) = faults(file, {variable: text})
    assert reason in fault
    assert f"{text!r} (from {variable})" in fault


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("docker_host = 'unix:///var/run/docker.sock'", {"docker_host": "unix:///var/run/docker.sock"}),
        ("docker_host = 'tcp://10.0.0.1:2375'", {"docker_host": "tcp://10.0.0.1:2375"}),
        ("external_host = '2001:DB8::1'", {"external_host": "2001:db8::1"}),
        ("external_host = 'DB.example.com'", {"external_host": "db.example.com"}),
        ("external_ports = '4000'", {"external_ports": range(4000, 4001)}),
        ("internal_pool = '100.64.0.0/16'", {"internal_pool": IPv4Network("100.64.0.0/16")}),
        ("base_domain = 'xn--bcher-kva.example'", {"base_domain": "xn--bcher-kva.example"}),
    ],
)
def test_a_right_value_is_taken(file: Path, line: str, expected: dict[str, object]) -> None:
    file.write_text(line)
    read = load(file, {})
    assert {name: getattr(read, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"workers 3", "is not TOML"), (b"\xff", "is not UTF-8"), (b"workers = 1\nworkers = 2", "is not TOML")],
)
def test_a_file_that_cannot_be_understood_is_named(file: Path, content: bytes, reason: str) -> None:
    file.write_bytes(content)
    (fault,) = faults(file)
    assert fault.startswith(f"{file}: {reason}")


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
