"""Names, slots and specifications of deployed apps; what can be asked for; what all this makes desired."""

from dataclasses import replace

import pytest

from sidegate.core.deployments import check_image, due, missing, outdated, revision, slots, spec
from sidegate.core.desired import desire
from sidegate.core.labels import App, Replica
from sidegate.core.model import Container, Deployment, Endpoint, Intent, Network, Pair, Rollout, Rules
from sidegate.core.reconcile import Observed, reconcile
from sidegate.errors import InvalidInputError
from states import app, ours, state

RULES = Rules()
DEPLOYMENT = Deployment("shop:1", "sha256:1", 2)
INTENT = Intent(deployments={"shop": DEPLOYMENT}, ports={"shop": 5000})
OWN = {"sidegate.app": "shop", "sidegate.revision": revision(DEPLOYMENT)}


def own(number: int, suffix: str = "", **changes: object) -> Container:
    values: dict[str, object] = {"endpoints": (Endpoint("sidegate--shop", f"10.213.0.{number + 1}"),), **changes}
    name = f"sidegate-shop-{number}{suffix}"
    return app("shop", number, name=name, id=f"id-{name}", labels=OWN, env={"PORT": "5000"}, **values)


def network() -> Network:
    found = ours("sidegate--shop", "10.213.0.0/27", "shop")
    return Network(found.id, found.name, labels=found.labels, subnets=found.subnets, gateway=found.gateway)


@pytest.mark.parametrize(
    "reference",
    ["shop", "shop:1.4", "team/shop", "example.com:5000/team/shop:x", "shop@sha256:" + "a" * 64, "sha256:" + "a" * 64],
)
def test_images(reference: str) -> None:
    assert check_image(reference) == reference


@pytest.mark.parametrize(
    "reference", ["", "Shop", "shop:", "shop:a b", "-x", "https://example.com/shop", "a//b", "a" * 3 + "\n"]
)
def test_what_is_no_image(reference: str) -> None:
    with pytest.raises(InvalidInputError, match="is not an image"):
        check_image(reference)


def test_an_image_of_a_megabyte_is_refused_at_once() -> None:
    with pytest.raises(InvalidInputError, match="is not an image: it has 1000001 characters"):
        check_image("a" * 1_000_000 + "!")


def test_what_a_container_is_made_from() -> None:
    made = spec("shop", INTENT, Rules(instance="two"), "two--shop")
    assert made.labels == {**OWN, "sidegate.instance": "two"}
    assert (made.env, made.image_id, made.network) == ({"PORT": "5000"}, "sha256:1", "two--shop")


def test_another_image_or_command_is_another_revision() -> None:
    """B5."""
    assert not outdated(own(1), DEPLOYMENT)
    assert outdated(own(1), Deployment("shop:1", "sha256:2", 2))
    assert outdated(own(1), Deployment("shop:1", "sha256:1", 2, ("x",)))
    assert not outdated(app("shop"), DEPLOYMENT)


def test_slots_of_ours_and_of_others() -> None:
    assert slots("shop", [own(1), own(3, ".sidegate-next"), app("shop", 9)], INTENT, RULES) == {
        "sidegate-shop-1": True,
        "sidegate-shop-2": True,
        "sidegate-shop-3": False,
    }
    assert slots("web", [app("web", 1), app("web", 2, name="x.sidegate-old")], INTENT, RULES) == {
        "web-1": True,
        "x": True,
    }


def replicas(*containers: Container) -> App:
    return App("shop", tuple(Replica(container, 5000) for container in containers))


def test_when_there_is_something_to_do() -> None:
    assert due(replicas(own(1), own(2)), INTENT, RULES) == ""
    assert "sidegate-shop-2 is missing" in due(replicas(own(1)), INTENT, RULES)
    assert missing(replicas(own(1)), INTENT, RULES)
    assert not missing(replicas(own(1), own(2, state="exited")), INTENT, RULES)
    assert "left of an earlier rollout" in due(replicas(own(1), own(2), own(2, ".sidegate-old")), INTENT, RULES)
    assert due(replicas(own(1), own(2), app("shop", name="sidegate-shop-2.sidegate-old")), INTENT, RULES) == ""
    assert "one too many" in due(replicas(own(1), own(2), own(3)), INTENT, RULES)
    assert due(replicas(app("shop")), Intent(), RULES) == ""
    assert due(replicas(app("shop")), Intent(rollouts={"shop": Rollout(1.0)}), RULES)


def test_an_app_has_a_network_to_itself_with_a_way_out() -> None:
    desired = desire(INTENT, state(own(1), app("shop", 9), app("other")), RULES)
    wanted = desired.networks["sidegate--shop"]
    assert wanted.egress
    assert list(wanted.members) == ["id-sidegate-shop-1"]
    plan, _ = reconcile(desired, Observed(state(own(1))), RULES)
    assert "create network sidegate--shop (10.213.0.0/27, with egress): shop is deployed" in str(plan)


def test_no_connection_has_its_name() -> None:
    """Not even where an app is called app."""
    intent = replace(INTENT, connections=frozenset({Pair("app", "shop")}))
    desired = desire(intent, state(own(1), app("app")), RULES)
    assert [n.egress for n in desired.networks.values()] == [True, False]


def test_a_stranger_on_it_is_taken_off() -> None:
    """Two apps are never on one network of ours without being connected."""
    stranger = app("other", endpoints=(Endpoint("bridge"), Endpoint("sidegate--shop", "10.213.0.9")))
    seen = state(own(1), own(2), stranger, networks=(network(),))
    plan, _ = reconcile(desire(INTENT, seen, RULES), Observed(seen), RULES)
    assert "disconnect other-1 from sidegate--shop: does not belong there" in str(plan)


def test_it_goes_with_the_app() -> None:
    seen = state(networks=(network(),))
    plan, _ = reconcile(desire(Intent(), seen, RULES), Observed(seen), RULES)
    assert "remove network sidegate--shop: shop is no longer deployed" in str(plan)


def test_an_own_replica_is_dialled_on_its_apps_network_whatever_it_is_connected_to() -> None:
    """Connections come and go; requests in hand shall not notice."""
    pair = ours("sidegate-a--shop", "10.213.0.32/27", "a", "shop")
    both = own(1, endpoints=(Endpoint("sidegate-a--shop", "10.213.0.34"), Endpoint("sidegate--shop", "10.213.0.2")))
    route = desire(INTENT, state(both, networks=(network(), pair)), RULES).routes.apps["shop"]
    assert [u.address for u in route.upstreams] == ["10.213.0.2"]


def test_a_given_port_wins_over_the_label() -> None:
    """R27."""
    old = app("web", 1, env={"PORT": "3000"}, labels={"sidegate.port": "3000"})
    new = app("web", 2, env={"PORT": "4000"}, labels={"sidegate.port": "3000"})
    route = desire(Intent(ports={"web": 4000}), state(old, new), RULES).routes.apps["web"]
    assert sorted(u.port for u in route.upstreams) == [3000, 4000]


def test_who_comes_waits_until_admitted_and_who_leaves_takes_no_requests() -> None:
    seen = state(own(1), own(2, ".sidegate-old"), own(2), own(3, ".sidegate-next"), networks=(network(),))
    intent = Intent(deployments={"shop": DEPLOYMENT}, ports={"shop": 5000}, rollouts={"shop": Rollout(1.0, DEPLOYMENT)})
    coming = "id-sidegate-shop-3.sidegate-next"

    def serving(**options: object) -> list[str]:
        route = desire(intent, seen, RULES, **options).routes.apps["shop"]  # type: ignore[arg-type]
        return sorted(u.replica for u in route.upstreams)

    assert serving() == ["sidegate-shop-1", "sidegate-shop-2"]
    assert serving(admitted={coming}) == ["sidegate-shop-1", "sidegate-shop-2", "sidegate-shop-3.sidegate-next"]
    assert serving(admitted={coming}, leaving={coming}) == ["sidegate-shop-1", "sidegate-shop-2"]


def test_domains_given_by_command_are_kept_without_containers() -> None:
    """R32: an app that is not there is a 503 on its own domain, not a 404."""
    intent = Intent(domains={"shop": ("shop.example.com",)}, claims={"l.example.com": "shop"})
    desired = desire(intent, state(), RULES)
    assert desired.claims == {"shop.example.com": "shop", "l.example.com": "shop"}
    assert "shop.example.com" in desired.routes.hosts
    assert desire(intent, state(), RULES, gone={"shop"}).claims == {"shop.example.com": "shop"}


def test_an_image_cannot_say_that_we_made_its_container() -> None:
    forged = app("shop", 1, labels=OWN, image_labels=OWN)
    assert slots("shop", [forged], INTENT, RULES) == {"sidegate-shop-1": True, "sidegate-shop-2": True}
    assert not outdated(forged, DEPLOYMENT)
