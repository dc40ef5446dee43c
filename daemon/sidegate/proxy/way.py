"""What is to be done with a request before any replica is asked. Pure, and the same for all requests with one head."""

from typing import Final

from sidegate.core.routes import MAINTENANCE, PAUSED
from sidegate.proxy.head import RequestHead
from sidegate.proxy.table import App

ON: Final = 0
"""To a replica. Every other way is a detour, and true."""
NOBODY, LAST_HOP, MOVED, TO_HTTPS, UNDER_MAINTENANCE, TOO_LARGE, PARK, UNAVAILABLE = range(1, 9)


def way_of(request: RequestHead, app: App | None, redirect: str, https_port: int) -> int:
    """ON or why not. `redirect` is the route's, `https_port` the public one (0: there is no TLS)."""
    fields = request.fields
    if app is None:
        return NOBODY
    if fields.max_forwards == 0:
        return LAST_HOP
    if redirect:
        return MOVED
    if app.policy.https_redirect and https_port and fields.scheme == "http" and fields.host:
        return TO_HTTPS
    if app.mode == MAINTENANCE:
        return UNDER_MAINTENANCE
    if app.policy.max_body and fields.length > app.policy.max_body:
        return TOO_LARGE
    if app.mode == PAUSED:
        return PARK
    return ON if app.backends else UNAVAILABLE
