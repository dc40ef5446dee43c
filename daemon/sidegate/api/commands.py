"""Every verb, implemented once. The control API, the command line behind it and later the page are doors to this."""

from sidegate.api.apps import AppVerbs
from sidegate.api.builds import BuildVerbs
from sidegate.api.certificates import CertificateVerbs
from sidegate.api.connections import ConnectionVerbs
from sidegate.api.databases import DatabaseVerbs
from sidegate.api.deployments import DeploymentVerbs
from sidegate.api.external import ExternalVerbs
from sidegate.api.logs import LogVerbs
from sidegate.api.metrics import MetricsVerbs
from sidegate.api.node import NodeVerbs
from sidegate.api.own_databases import OwnDatabaseVerbs
from sidegate.api.passwords import PasswordVerbs
from sidegate.api.renewing import Renewal
from sidegate.api.variables import EnvVerbs
from sidegate.api.world import World


class Commands:
    """The verbs by noun: coroutines that give values of `sidegate.api.schemas` and raise only `sidegate.errors`.

    The present reading of the world's clock is when the daemon started.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.node = NodeVerbs(world, world.clock())
        self.apps = AppVerbs(world)
        self.deployments = DeploymentVerbs(world, self.apps)
        self.logs = LogVerbs(world)
        self.env = EnvVerbs(world)
        self.builds = BuildVerbs(world)
        self.externals = ExternalVerbs(world)
        self.databases = DatabaseVerbs(world, self.externals)
        self.renewal = Renewal(world, self.deployments.redeploy)
        self.passwords = PasswordVerbs(world, self.renewal)
        self.own_databases = OwnDatabaseVerbs(world, self.passwords)
        self.certificates = CertificateVerbs(world)
        self.connections = ConnectionVerbs(world, self.renewal)
        self.metrics = MetricsVerbs(world, self.node)
