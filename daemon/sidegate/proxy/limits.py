"""How long and how much: the node-wide deadlines and bounds of the data plane, handed to every worker as it starts.

What an app may have its own way with is in core.routes.Policy instead.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes. Times over a second are swept once a second, so they may run one over."""

    head: int = 10  # from a request's first byte to the end of its head, then 408; also for a TLS handshake
    idle: int = 75  # a kept-alive client between two requests
    connect: float = 5.0  # to a database, then a reset
    stall: int = 60  # while a client takes nothing of what is ready for it, then a reset
    linger: int = 5  # after a final response, while the client still sends what nobody will read
    drain: float = 30.0  # what requests in flight get when their replica leaves or the worker ends
    backend_idle: int = 10  # an unused connection to a replica
    backend_spares: int = 256  # unused connections kept per replica and worker
    head_bytes: int = 65536  # a request's head, then 431
    target_bytes: int = 16384  # a request's target, then 414
    connections: int = 0  # clients per worker, 0: what the limit on open files allows
    connections_per_client: int = 0  # of one address (IPv6: of one /64) per worker, 0: no limit; not for this machine
    pause_requests: int = 1000  # requests per paused app and worker that wait, then 503
    pause: int = 60  # how long each of them waits, then 503
    https_port: int = 0  # the public one, for redirects; 0: there is no TLS
    trusted_proxies: tuple[str, ...] = ()  # CIDRs whose X-Forwarded-* and the like are believed
    local_clients: tuple[str, ...] = ()  # addresses that stand for this machine, beside its own
    log_sample: int = 1  # of so many requests one is in the access log; those answered 5xx always are
