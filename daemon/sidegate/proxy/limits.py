"""How long and how much: the deadlines and bounds of the data plane, handed to every worker as it starts."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds, sizes in bytes. Times over a second are swept once a second, so they may run one over."""

    head: int = 10  # from a request's first byte to the end of its head, then 408
    body: int = 60  # between two pieces of a request's body, then 408
    idle: int = 75  # a kept-alive client between two requests
    connect: float = 5.0  # to a replica or a database, then 504 or a reset
    response: int = 60  # from a request's end to the head of its response, then 504
    stall: int = 60  # while a client takes nothing of what is ready for it, then a reset
    linger: int = 5  # after a final response, while the client still sends what nobody will read
    drain: float = 10.0  # what requests in flight get when a worker ends
    backend_idle: int = 10  # an unused connection to a replica
    backend_spares: int = 256  # unused connections kept per replica and worker
    head_bytes: int = 65536  # a request's head, then 431
    connections: int = 0  # clients per worker, 0: what the limit on open files allows
