"""The page that says what passes in which form."""

import datetime

from forms_table import Outcomes, table

DAY = datetime.date(2026, 1, 2)


def outcomes(*found: tuple[str, ...]) -> Outcomes:
    run = Outcomes()
    for one in found:
        run.add(*one)
    return run


def test_a_run_replaces_what_was_there_of_its_files_in_its_form_and_nothing_else() -> None:
    skipped = ("tests/e2e/test_b.py::test_y[kernel|1]", "skipped", "Skipped: rules: take root")
    page = table("", "dev", outcomes(("tests/e2e/test_a.py::test_x", "passed"), skipped), DAY)
    assert "| `test_a` | - | 1 passed | - | - |\n| `test_b` | - | 1 skipped | - | - |" in page
    assert "| dev | `test_b` | rules: take root | `test_y[kernel\\|1]` |" in page
    page = table(page, "host", outcomes(("tests/e2e/test_b.py::test_y", "failed")), DAY)
    assert "| `test_b` | 1 failed | 1 skipped | - | - |" in page
    assert "| last run | 2026-01-02 | 2026-01-02 | - | - |" in page
    page = table(page, "dev", outcomes(("tests/e2e/test_b.py::test_y", "passed")), DAY)
    assert "| `test_b` | 1 failed | 1 passed | - | - |" in page
    assert "take root" not in page
    assert table(page, "dev", Outcomes(), DAY) == page
