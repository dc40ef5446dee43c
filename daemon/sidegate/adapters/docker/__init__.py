"""The Docker engine as the reconciler's `Engine` and `Workloads`: what it observes and what it is told to change.

Owns everything that is known about the engine's API; hands out `sidegate.core` values and nothing else.
`import docker` stands in `client` only.
"""

from sidegate.adapters.docker.engine import DockerEngine
from sidegate.adapters.docker.workloads import DockerWorkloads

__all__ = ["DockerEngine", "DockerWorkloads"]
