"""Who answers for which domain. The earlier claim keeps a domain; the store remembers claims, because an app whose
containers were all replaced is younger than a rival that has only waited."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from sidegate.core.labels import App, Domain, parse_domain
from sidegate.core.model import Problem
from sidegate.core.quoting import MOST, plain


def listed_domains(app: App, given: Mapping[str, tuple[str, ...]]) -> tuple[Domain, ...]:
    """An app's domains, by labels and by command (`given`: app -> domains)."""
    commanded = filter(None, map(parse_domain, given.get(app.name, ())))
    return tuple(dict.fromkeys((*app.domains, *commanded)))


def with_domains(
    apps: Mapping[str, App], given: Mapping[str, tuple[str, ...]], held: Mapping[str, str], gone: Collection[str]
) -> dict[str, App]:
    """Apps with the domains that were given by command; those keep theirs while they have no container, too.

    Without containers nobody knows what their labels list: what such an app holds counts until it is `gone`.
    """
    found = dict(apps)
    for name in given:
        app = apps.get(name)
        if app is None:
            kept = (parse_domain(domain) for domain, holder in held.items() if holder == name and name not in gone)
            app = App(name, domains=tuple(filter(None, kept)))
        found[name] = replace(app, domains=listed_domains(app, given))
    return found


def assign_domains(
    apps: Mapping[str, App], held: Mapping[str, str], gone: Collection[str], base_domain: str
) -> tuple[dict[str, str], list[Problem]]:
    """Claims (domain -> app) after this look at the apps, and who went without.

    A claim in `held` stands while its app lists the domain, and while the app has no containers but is not yet `gone`.
    `<name>.<base_domain>` belongs to the app of that name and is never claimed.
    """
    listed = {name: frozenset(map(str, app.domains)) for name, app in apps.items()}  # one app may have thousands
    claims = {
        domain: app for domain, app in held.items() if (domain in listed[app] if app in listed else app not in gone)
    }
    problems = []
    for app in sorted(apps.values(), key=_seniority):
        taken = []
        for domain in app.domains:
            owner = _owner_by_name(domain, base_domain) or claims.setdefault(str(domain), app.name)
            if owner != app.name:
                taken.append((domain, owner))
        for domain, owner in taken[:MOST]:
            text = f"does not get {plain(str(domain))}: it belongs to the app {owner}; remove it from one of the two"
            problems.append(Problem(app.name, text))
        if (more := len(taken) - MOST) > 0:
            problems.append(Problem(app.name, f"does not get {more} more domains, which belong to other apps"))
    return claims, problems


def _seniority(app: App) -> tuple[str, str]:
    return (app.replicas[0].container.created if app.replicas else "~", app.name)


def _owner_by_name(domain: Domain, base_domain: str) -> str:
    """The app that owns a name directly under the base domain, whatever the path; wildcards belong to nobody."""
    name, _, rest = domain.host.partition(".")
    return name if rest == base_domain and name != "*" else ""
