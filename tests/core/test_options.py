"""What people may write as an app's options, and what it means."""

import dataclasses

import pytest

from sidegate.core.options import OPTIONS, WWW, check_options, option_fault, policy_of
from sidegate.core.routes import Policy
from sidegate.errors import InvalidInputError


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("https", "both", False),
        ("https", "redirect", True),
        ("hsts", "365d", 31_536_000),
        ("hsts", "0", 0),
        ("max-body", "10m", 10 << 20),
        ("max-body", "10MB", 10 << 20),
        ("max-body", "1GiB", 1 << 30),
        ("max-body", "512k", 512 << 10),
        ("max-body", "100", 100),
        ("max-body", "off", 0),
        ("connect-timeout", "500ms", 0.5),
        ("connect-timeout", "3", 3),
        ("response-timeout", "2m", 120),
        ("response-timeout", "off", 0),
        ("body-timeout", "30s", 30),
        ("websocket-idle", "1h", 3600),
        ("access-log", "off", False),
        ("health", "/healthz?full=1", "/healthz?full=1"),
        ("health", "off", ""),
        ("health-interval", "2s", 2),
        ("health-timeout", "1", 1),
        ("health-rise", "1", 1),
        ("health-fall", "100", 100),
    ],
)
def test_what_is_read(name: str, text: str, value: object) -> None:
    policy = policy_of({name: text}, Policy(https_redirect=True, hsts=1, max_body=1, response=1, health="/other"))
    assert getattr(policy, OPTIONS[name].field) == value


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("https", text) for text in ("", "yes", "Redirect", "redirect ")),
        *(("www", text) for text in ("", "on", "www")),
        *(("hsts", text) for text in ("-1", "1y", "11y", "4000d", "1.5d", "٣", "1e3")),
        *(("max-body", text) for text in ("", "10x", "-1", "1.5m", "10 m", "9999999t", "1" * 40, "٣m", "b")),
        *(("connect-timeout", text) for text in ("0", "off", "11m", "5ms", "", "s")),
        *(("response-timeout", text) for text in ("500ms", "2d", "", "30 s", "\n30s", "30s\n")),
        *(("access-log", text) for text in ("", "true", "1")),
        *(("health", text) for text in ("", "healthz", "http://x/", "/a b", "/a#b", "/a\r\nX: y", "/é", "/a\x00")),
        *(("health-interval", text) for text in ("0", "off", "2h", "100ms")),
        *(("health-timeout", text) for text in ("0", "11m")),
        *(("health-rise", text) for text in ("0", "101", "+1", "1.0", "", "٣", "off")),
    ],
)
def test_what_is_refused_says_what_is_allowed(name: str, text: str) -> None:
    assert option_fault(name, text) == f"{text!r} is not {OPTIONS[name].allowed}"
    with pytest.raises(InvalidInputError, match=f"{name}: "):
        check_options({name: text})


def test_each_field_of_a_policy_has_one_option() -> None:
    fields = sorted(option.field for option in OPTIONS.values() if option.field)
    assert fields == sorted(field.name for field in dataclasses.fields(Policy))
    assert [option.name for option in OPTIONS.values() if not option.field] == [WWW]


def test_everything_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(InvalidInputError) as error:
        check_options({"maxbody": "1m", "https": "maybe", "hsts": "1d", "zzz": None})
    assert str(error.value).startswith(
        "there is no option 'maxbody': did you mean max-body?; https: 'maybe' is not both or redirect; "
        "there is no option 'zzz': there are https, www, "
    )


def test_unsetting_needs_no_value_and_works_for_what_another_version_kept() -> None:
    check_options({"max-body": None})
    check_options({"colour": None}, kept={"colour": "red"})
    with pytest.raises(InvalidInputError, match="no option 'colour'"):
        check_options({"colour": "blue"}, kept={"colour": "red"})


def test_a_policy_is_the_default_but_for_what_was_said() -> None:
    default = Policy(max_body=5, response=6)
    assert policy_of({}, default) == default
    assert policy_of({"max-body": "7", "www": "add"}, default) == Policy(max_body=7, response=6)
