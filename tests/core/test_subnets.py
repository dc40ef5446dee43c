"""Subnets from the pool."""

from ipaddress import IPv4Network
from itertools import islice

from sidegate.core.subnets import free_subnets

POOL = IPv4Network("10.213.0.0/16")


def test_the_whole_pool_is_given_out_once() -> None:
    found = list(free_subnets(POOL, 27, ()))
    assert len(found) == len(set(found)) == 2048
    assert all(n.subnet_of(POOL) for n in found)


def test_whatever_overlaps_is_left_out_wider_narrower_or_outside() -> None:
    taken = ["10.213.0.5/32", "10.213.0.64/26", "192.0.2.0/24", "fd00::/64", "10.212.0.0/16", "10.214.0.0/15"]
    assert [str(n) for n in islice(free_subnets(POOL, 27, taken), 2)] == ["10.213.0.32/27", "10.213.0.128/27"]


def test_a_route_that_covers_the_pool_leaves_nothing() -> None:
    assert list(free_subnets(POOL, 27, ["10.0.0.0/8"])) == []
