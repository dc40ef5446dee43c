import json
from pathlib import Path

from bench.__main__ import CASES
from bench.report import HEAD, Result, as_json, as_section, as_table, merged

RESULTS = [
    Result("http-55b", "sidegate", "req/s", (50_000, 58_000, 70_000), (0.98, 0.99, 1.0)),
    Result("http-55b", "sidegate+log", "req/s", (29_000,)),
    Result("http-55b", "nginx+log", "req/s", (58_000,)),
    Result("http-55b", "direct", "req/s", (156_000, 116_000, 80_000)),
]


def test_the_json_holds_one_object_per_server_with_its_median_and_its_rounds() -> None:
    assert json.loads(as_json(RESULTS))[0] == {
        "case": "http-55b",
        "server": "sidegate",
        "unit": "req/s",
        "median": 58_000,
        "rounds": [50_000, 58_000, 70_000],
    }


def test_a_table_shows_what_the_subject_reaches_of_each_server_and_of_a_variant_what_its_own_does() -> None:
    lines = [" ".join(line.split()) for line in as_table(RESULTS, "sidegate").splitlines()]
    assert lines == [
        "server req/s sidegate is cores rounds",
        "sidegate 58,000 1.00 of it 0.99 50,000, 58,000, 70,000",
        "sidegate+log 29,000 1.00 of it 29,000",
        "nginx+log 58,000 0.50 of it 58,000",
        "direct 116,000 0.50 of it 156,000, 116,000, 80,000",
    ]


def test_where_less_is_better_the_table_says_what_the_subject_takes() -> None:
    results = [Result("idle-memory", name, "KiB/connection", (size,)) for name, size in (("sidegate", 4), ("caddy", 8))]
    lines = as_table(results, "sidegate", less_is_better=True).splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "server KiB/connection sidegate takes cores rounds",
        "sidegate 4 1.00 of it 4",
        "caddy 8 0.50 of it 8",
    ]


def test_a_run_of_one_case_leaves_the_others_sections_alone_and_drops_cases_that_are_gone() -> None:
    order = ["fast-path", "http-55b"]
    section = as_section("What it is.", RESULTS, "sidegate", ["a floor: met"], "Today, here.")
    whole = merged("", {"fast-path": "## fast-path\n\nold\n", "http-55b": section, "gone": "## gone\n\n"}, order)
    assert whole == f"{HEAD}\n## fast-path\n\nold\n\n{section}"
    again = merged(whole, {"fast-path": "## fast-path\n\nnew\n"}, order)
    assert again == whole.replace("old", "new")
    assert merged(again, {}, order) == again


def test_the_scripts_help_names_every_case() -> None:
    script = (Path(__file__).parents[2] / "scripts/bench").read_text()
    assert [case for case in CASES if f"\n#   {case} " not in script] == []
