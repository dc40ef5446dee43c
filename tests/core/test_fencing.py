"""What the fence is to hold, and when it is put up anew."""

from collections.abc import Iterable
from dataclasses import replace

from sidegate.core.desired import bridge_device, desire
from sidegate.core.fencing import NONE, Fence
from sidegate.core.model import Deployment, EngineState, Intent, Network, Pair, Rules
from sidegate.core.reconcile import Observed, reconcile
from states import app, database, ours, state

HOME = ours("sidegate-home--shop-db", "10.213.0.0/27", "shop-db")
JOINT = ours("sidegate-shop--shop-db", "10.213.0.32/27", "shop", "shop-db")
OWN = replace(ours("sidegate--shop", "10.213.0.64/27", "shop"), internal=False)
NEIGHBOUR = ours("other-home--shop-db", "10.213.0.96/27", "shop-db", instance="other")
CONNECTED = Intent(connections=frozenset({Pair.of("shop", "shop-db")}))


def planned(
    present: Fence | None, now: EngineState, intent: Intent = CONNECTED, *, engine_up: bool = True
) -> list[str]:
    """What a plan does about the fence, in words."""
    desired = desire(intent, now, Rules(), engine_up=engine_up)
    plan, _ = reconcile(desired, Observed(now, fence=present, engine_up=engine_up), Rules())
    return [str(action) for action in plan.actions if action.chain == "fence"]


def around(*private: Network, egress: Iterable[Network] = ()) -> Fence:
    return Fence(frozenset(bridge_device(n.name) for n in private), frozenset(bridge_device(n.name) for n in egress))


def test_networks_are_fenced_before_they_are_made_and_until_they_have_gone() -> None:
    wanted = state(database("shop-db"), app("shop"))
    assert planned(NONE, wanted) == ["fence 2 networks: 2 networks more"]
    assert planned(around(HOME, JOINT), wanted) == []
    leaving = state(database("shop-db"), app("shop"), networks=(HOME, JOINT))
    assert planned(around(HOME, JOINT), leaving, Intent()) == []
    left = state(database("shop-db"), app("shop"), networks=(HOME,))
    assert planned(around(HOME, JOINT), left, Intent()) == ["fence 1 network: 1 network less"]
    assert planned(around(HOME), state(), Intent()) == ["remove the fence: there is no network of ours"]
    assert planned(NONE, state(), Intent()) == []


def test_what_is_deployed_reaches_the_world() -> None:
    deployed = Intent(deployments={"shop": Deployment("image")})
    now = state(networks=(OWN,))
    assert planned(around(egress=[OWN]), now, deployed) == []
    assert planned(around(OWN), now, deployed) == ["fence 1 network: who may reach the world was changed"]
    assert planned(around(egress=[OWN]), now, Intent()) == []


def test_other_people_s_networks_and_other_instances_ones_are_not_fenced() -> None:
    foreign = Network(id="n9", name="project", internal=True)
    assert planned(NONE, state(networks=(foreign, NEIGHBOUR)), Intent()) == []
    assert planned(around(HOME), state(database("shop-db"), networks=(HOME, foreign, NEIGHBOUR)), Intent()) == []


def test_another_instance_s_network_of_a_name_that_we_want_is_not_fenced() -> None:
    """The device would be the same: sidegate-shop--shop-db is also what the instance sidegate-shop calls its app's."""
    theirs = replace(ours(JOINT.name, "10.213.0.128/27", "shop-db", instance="sidegate-shop"), internal=False)
    assert planned(around(HOME), state(database("shop-db"), app("shop"), networks=(HOME, theirs))) == []


def test_rules_that_were_touched_are_put_anew() -> None:
    now = state(database("shop-db"), networks=(HOME,))
    assert planned(replace(around(HOME), torn=True), now, Intent()) == [
        "fence 1 network: its rules are not those that this daemon put"
    ]
    assert planned(replace(NONE, torn=True), state(), Intent()) == ["remove the fence: there is no network of ours"]


def test_where_there_can_be_none_nothing_is_planned() -> None:
    now = state(database("shop-db"), networks=(HOME,))
    assert planned(None, now) == []
    assert planned(NONE, now, engine_up=False) == []
