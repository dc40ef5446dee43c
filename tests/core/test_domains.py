"""Who answers for which domain, where one app has very many."""

from dataclasses import replace

from sidegate.core.domains import assign_domains
from sidegate.core.labels import Domain, discover
from sidegate.core.model import Rules
from states import app


def test_thousands_of_domains_of_one_app_are_looked_at_once_each() -> None:
    """Each held claim against each domain would take minutes here."""
    (found,) = discover([app("shop")], Rules()).apps.values()
    shop = replace(found, domains=tuple(Domain(f"d{number}.example") for number in range(50_000)))
    held = {f"d{number}.example": "shop" for number in range(40_000)} | {"old.example": "shop", "kept.example": "gone"}
    claims, problems = assign_domains({"shop": shop}, held, (), "localhost")
    assert claims == {str(domain): "shop" for domain in shop.domains} | {"kept.example": "gone"}
    assert not problems


def test_of_hundreds_of_domains_that_another_has_the_first_are_told() -> None:
    names = ",".join(f"d{number}.example" for number in range(500))
    older = app("older", labels={"sidegate.domains": names}, created="2026-01-01T00:00:00Z")
    younger = app("younger", labels={"sidegate.domains": names}, created="2026-01-02T00:00:00Z")
    claims, problems = assign_domains(discover([older, younger], Rules()).apps, {}, (), "localhost")
    assert set(claims.values()) == {"older"}
    assert len(problems) == 11
    assert str(problems[-1]) == "younger: does not get 490 more domains, which belong to other apps"
