"""The one tree of errors that people meet; each class holds its stable code, HTTP status and exit status once.

Adapters translate what their library raises into these at the edge; nobody else catches a library's errors.
A message is a sentence for the operator: what is wrong, with names and numbers, then what to do.
"""

from typing import ClassVar


class SidegateError(Exception):
    """Base of every error with a message for people.

    `code` is stable and machine-readable, `status` an HTTP status, `exit_status` what the command line exits with.
    """

    code: ClassVar[str] = "failed"
    status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1


class InvalidInputError(SidegateError):
    """A value that can never be right: a bad name, a port out of range, an unknown field."""

    code = "invalid"
    status = 422
    exit_status = 2


class NotFoundError(SidegateError):
    """The named app, database, connection or variable does not exist."""

    code = "not-found"
    status = 404
    exit_status = 4


class RefusedError(SidegateError):
    """Understood, but against a rule or in conflict with what is already there."""

    code = "refused"
    status = 409
    exit_status = 5


class DuplicateConnectionError(RefusedError):
    """The pair is connected already, in either direction."""

    code = "duplicate-connection"


class FixedPortError(RefusedError):
    """Somebody tried to change a database's internal port."""

    code = "fixed-port"

    def __init__(self) -> None:
        super().__init__("the internal port is 3306 and cannot be changed")


class KeyClashError(RefusedError):
    """The app already has some of the variables that a connection would add; nothing was added."""

    code = "key-clash"


class PoolExhaustedError(RefusedError):
    """No free subnet is left in `internal_pool`."""

    code = "pool-exhausted"


class PortInUseError(SidegateError):
    """A port that we must listen on is held by another process."""

    code = "port-in-use"
    status = 409


class EngineUnavailableError(SidegateError):
    """The Docker engine does not answer."""

    code = "engine-unavailable"
    status = 503


class EngineError(SidegateError):
    """The Docker engine answered, and refused or failed a call."""

    code = "engine-error"
    status = 502


class SubnetTakenError(EngineError):
    """The engine says that a subnet overlaps with another; another one from the pool may do."""

    code = "subnet-taken"


class HostToolError(SidegateError):
    """A host command (iptables, nsenter, ss, conntrack) is missing or failed."""

    code = "host-tool"


class MissingRightsError(HostToolError):
    """The daemon may not do that: it is not root, or lacks a capability. To try again does not help."""


class LoginFailedError(SidegateError):
    """A database could not be logged in to: unreachable, or the credentials were refused."""

    code = "login-failed"
    status = 502


class PasswordRefusedError(LoginFailedError):
    """A database was asked to take a new password and goes on with the old one."""

    code = "password-refused"


class PasswordUncertainError(LoginFailedError):
    """A database was told its new password and did not answer: whether it has it is found out later."""

    code = "password-uncertain"


class BuildFailedError(SidegateError):
    """A build of an image failed: in which step, with its last lines."""

    code = "build-failed"
    status = 422


class RolloutFailedError(SidegateError):
    """New containers of an app did not become what they should be; what was there before goes on."""

    code = "rollout-failed"
    status = 502


class DataPlaneError(SidegateError):
    """The workers could not do what was asked of them."""

    code = "data-plane"


class CertificateError(SidegateError):
    """The local authority could not issue a certificate, or could not be kept on the disk."""

    code = "certificate"


class StoreError(SidegateError):
    """The state file could not be read or written; what was asked for was not done."""

    code = "store"
    status = 507


class DiskFullError(StoreError):
    """The disk of the state directory is full."""

    code = "disk-full"


class SettingsError(SidegateError):
    """A setting is unknown or its value is wrong; names the key and the reason."""

    code = "settings"
    exit_status = 2


class AlreadyRunningError(SidegateError):
    """Another daemon holds the state directory, the control socket or the instance."""

    code = "already-running"


class DaemonUnreachableError(SidegateError):
    """The command line found no daemon on the control socket."""

    code = "unreachable"
    exit_status = 3
