"""Names below localhost."""

from collections.abc import Iterator

from sidegate.doctor.findings import Check, Told, warning
from sidegate.doctor.snapshot import Snapshot, known

PROBE = "sidegate-doctor"
"""An app's name where there is none to ask for."""


def localhost(seen: Snapshot) -> Iterator[Told]:
    """RFC 6761 section 6.3 would have every resolver know these; browsers and curl do without one."""
    names = known(seen.unresolved)
    if not names:
        return
    some = ", ".join(names)
    advice = (
        "All names: `apt-get install libnss-myhostname`. Browsers and curl know them anyway, other programs do not."
    )
    real = [name for name in names if not name.startswith(PROBE)]
    yield warning(
        f"{some} does not lead to this machine" if len(names) == 1 else f"{some} do not lead to this machine",
        command=f"echo '127.0.0.1 {' '.join(real)}' >> /etc/hosts" if real else "apt-get install libnss-myhostname",
        advice=advice if real else "Or a line in /etc/hosts for each app. Browsers and curl know the names anyway.",
    )


CHECKS = (Check("localhost-names", "names below localhost lead to this machine", localhost),)
