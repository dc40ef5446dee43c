"""Where requests for paused apps wait: order, bounds, and which snapshot lets them go."""

from sidegate.core.routes import MAINTENANCE, PAUSED, SERVING, AppRoute, Routes
from sidegate.proxy.parking import Parking
from sidegate.proxy.table import Table


class Waiting:
    def __init__(self, gone: list["Waiting"]) -> None:
        self.gone = gone

    def resume(self) -> None:
        self.gone.append(self)


def table(**modes: str) -> Table:
    return Table(Routes(apps={name: AppRoute(mode=mode) for name, mode in modes.items()}))


def test_who_waits_goes_on_in_order_of_arrival_when_its_app_serves() -> None:
    parking, gone = Parking(), list[Waiting]()
    shop, blog = [Waiting(gone) for _ in range(50)], [Waiting(gone) for _ in range(3)]
    for client in shop:
        assert parking.add("shop", client, 50)
    for client in blog:
        assert parking.add("blog", client, 50)
    parking.remove("shop", shop.pop(7))
    parking.remove("shop", Waiting(gone))
    parking.remove("none", Waiting(gone))
    parking.resume(table(shop=PAUSED, blog=PAUSED))
    assert not gone
    parking.resume(table(shop=SERVING, blog=PAUSED))
    assert gone == shop
    assert len(parking) == 3
    parking.resume(table(blog=MAINTENANCE))
    assert gone == shop + blog
    assert len(parking) == 0


def test_an_app_that_is_not_there_any_more_keeps_nobody() -> None:
    parking, gone = Parking(), list[Waiting]()
    client = Waiting(gone)
    parking.add("shop", client, 1)
    assert not parking.add("shop", Waiting(gone), 1)
    assert parking.add("blog", Waiting(gone), 1)
    parking.resume(table(blog=PAUSED))
    assert gone == [client]


def test_who_begins_to_wait_again_while_others_go_is_kept() -> None:
    parking, gone = Parking(), list[Waiting]()

    class Again(Waiting):
        def resume(self) -> None:
            super().resume()
            parking.add("shop", self, 9)

    first, second = Again(gone), Waiting(gone)
    for client in (first, second):
        parking.add("shop", client, 9)
    parking.resume(table())
    assert gone == [first, second]
    assert len(parking) == 1
