"""The calls that make, replace and remove containers of apps."""

from sidegate.api import schemas
from sidegate.api.calls.base import Asked, Call, always


def _domains_named(asked: Asked) -> tuple[str, str]:
    changes = [*asked.body.add, *(f"-{domain}" for domain in asked.body.remove)] if asked.body else []
    return "app domains", " ".join([asked.path["app"], *changes])


def _deploy_named(asked: Asked) -> tuple[str, str]:
    return "app deploy", " ".join([asked.path["app"], *([asked.body.image] if asked.body else [])])


def _port_named(asked: Asked) -> tuple[str, str]:
    return "app port", " ".join([asked.path["app"], *([str(asked.body.port)] if asked.body else [])])


CALLS: tuple[Call, ...] = (
    Call(
        "PUT",
        "/v1/apps/{app}/deployment",
        ("app deploy",),
        "Run an app's containers, or run them anew",
        schemas.AppView,
        lambda c, a: c.deployments.deploy(a.path["app"], a.body, a.progress),
        body=schemas.DeployRequest,
        audited=always,
        named=_deploy_named,
        streams=True,
    ),
    Call(
        "POST",
        "/v1/apps/{app}/rollouts",
        ("app redeploy",),
        "Replace an app's containers, so that they have the stored variables",
        schemas.AppView,
        lambda c, a: c.deployments.redeploy(a.path["app"], a.progress),
        audited=always,
        streams=True,
    ),
    Call(
        "PUT",
        "/v1/apps/{app}/port",
        ("app port",),
        "Say which PORT an app's containers are given",
        schemas.AppView,
        lambda c, a: c.deployments.port(a.path["app"], a.body.port, a.progress),
        body=schemas.PortRequest,
        audited=always,
        named=_port_named,
        streams=True,
    ),
    Call(
        "PATCH",
        "/v1/apps/{app}/domains",
        ("app domains",),
        "Give an app domains, or take them away",
        schemas.AppView,
        lambda c, a: c.deployments.domains(a.path["app"], a.body),
        body=schemas.DomainsRequest,
        audited=always,
        named=_domains_named,
    ),
    Call(
        "DELETE",
        "/v1/apps/{app}",
        ("app rm",),
        "Remove an app that Sidegate runs, and forget what is known of it",
        schemas.AppRemoved,
        lambda c, a: c.deployments.rm(a.path["app"], a.progress),
        audited=always,
        streams=True,
    ),
    Call(
        "GET",
        "/v1/apps/{app}/logs",
        ("app logs",),
        "What an app's containers write",
        schemas.Logs,
        lambda c, a: c.logs.logs(a.path["app"], a.query, a.progress),
        query=schemas.LogsQuery,
        streams=True,
        attended=True,
    ),
)
