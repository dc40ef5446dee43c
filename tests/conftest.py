"""Every run of the tests leaves docs/requirements.md as the tests are now."""

import requirements


def pytest_sessionfinish() -> None:
    if (table := requirements.table()) != (requirements.TABLE.read_text() if requirements.TABLE.exists() else ""):
        requirements.TABLE.write_text(table)
