"""The one table of calls: what is served, what describes it, and which verb of the command line it stands behind."""

from sidegate.api.calls import (
    apps,
    builds,
    certificates,
    connections,
    databases,
    deployments,
    external,
    node,
    variables,
)
from sidegate.api.calls.base import Asked as Asked
from sidegate.api.calls.base import Call as Call
from sidegate.api.calls.base import Text as Text

CALLS: tuple[Call, ...] = (
    *node.CALLS,
    *apps.CALLS,
    *deployments.CALLS,
    *variables.CALLS,
    *builds.CALLS,
    *databases.CALLS,
    *external.CALLS,
    *connections.CALLS,
    *certificates.CALLS,
)
