"""The Docker engine as the reconciler's `Engine`: what it observes and what it is told to change.

Owns everything that is known about the engine's API; hands out `sidegate.core.model` and nothing else.
`import docker` stands in `client` only.
"""

from sidegate.adapters.docker.engine import DockerEngine

__all__ = ["DockerEngine"]
