"""Every run of the tests leaves docs/requirements.md as the tests are now."""

from hypothesis import HealthCheck, settings

import requirements

# How fast an example is says more about the machine than about what is under test.
settings.register_profile("sidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("sidegate")


def pytest_sessionfinish() -> None:
    if (table := requirements.table()) != (requirements.TABLE.read_text() if requirements.TABLE.exists() else ""):
        requirements.TABLE.write_text(table)
