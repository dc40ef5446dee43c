"""Which container this process is in: what the kernel says of it, and what the engine says to that."""

import os
import socket
from pathlib import Path

import msgspec
import pytest

from sidegate.adapters.capabilities import lost
from sidegate.adapters.docker.documents import ContainerDocument
from sidegate.adapters.docker.own_container import candidates, described, find_own_container, outer_process

ID, OTHER = "a1" * 32, "b2" * 32


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(socket, "gethostname", lambda: "node")
    (tmp_path / "self").mkdir()
    return tmp_path


def mounted(proc: Path, root: str, where: str) -> None:
    with (proc / "self/mountinfo").open("a") as file:
        file.write(f"640 639 8:1 {root} {where} rw,relatime - ext4 /dev/sda1 rw\n")


def test_the_engine_mounts_three_files_of_a_container_from_a_directory_of_its_id(proc: Path) -> None:
    mounted(proc, f"/var/lib/docker/containers/{ID}/hostname", "/etc/hostname")
    mounted(proc, f"/docker/containers/{ID}/hosts", "/etc/hosts")
    assert list(candidates(proc)) == [ID]


def test_the_mounts_of_others_that_the_host_sees_are_not_taken_for_our_own(proc: Path) -> None:
    mounted(proc, "/", f"/var/lib/docker/containers/{OTHER}/mounts/shm")
    mounted(proc, f"/var/lib/docker/containers/{OTHER}/x", "/data")
    assert list(candidates(proc)) == []


@pytest.mark.parametrize(
    "path",
    [f"/docker/{ID}", f"/system.slice/docker-{ID}.scope", f"/kubepods/pod0/{ID}", f"/docker/{OTHER}/docker/{ID}"],
)
def test_so_do_control_groups_of_both_versions_the_innermost_first(proc: Path, path: str) -> None:
    (proc / "self/cgroup").write_text(f"9:pids:{path}\n0::{path}\n")
    assert next(candidates(proc)) == ID


def test_the_host_name_comes_last_and_only_where_it_looks_like_an_id(
    proc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted(proc, f"/var/lib/docker/containers/{ID}/resolv.conf", "/etc/resolv.conf")
    monkeypatch.setattr(socket, "gethostname", lambda: "a1a1a1a1a1a1")
    assert list(candidates(proc)) == [ID, "a1a1a1a1a1a1"]


async def test_a_process_in_no_container_asks_no_engine(proc: Path) -> None:
    (proc / "self/cgroup").write_text("0::/user.slice\n")
    assert await find_own_container("unix:///nonexistent", proc=proc) is None


def test_the_bridges_of_a_visit_that_was_not_ended_do_not_stand_for_this_machine() -> None:
    networks = {
        "0sidegate": {"Gateway": "172.30.0.1", "IPv6Gateway": "fd00::1", "Aliases": [ID[:12]]},
        "shop_default": {"Gateway": "172.31.0.1", "Aliases": ["sidegate.visitor", ID[:12]]},
        "blog_default": {"Gateway": "172.31.1.1", "DNSNames": ["sidegate", "sidegate.visitor"]},
    }
    document = {"Id": ID, "Name": "/sidegate", "NetworkSettings": {"Networks": networks}}
    own = described(msgspec.convert(document, ContainerDocument, strict=False), 0)
    assert own.gateways == {"172.30.0.1", "fd00::1"}


async def test_none_means_not_to_look(proc: Path) -> None:
    (proc / "self/cgroup").write_text(f"0::/docker/{ID}\n")
    assert await find_own_container("unix:///nonexistent", "none", proc=proc) is None


async def test_with_the_network_of_what_keeps_the_container_it_needs_no_engine_either(proc: Path) -> None:
    """The host's network: an ancestor outside of the container has the same."""
    (proc / "self/cgroup").write_text(f"0::/docker/{ID}\n")
    for pid, mounts, parent in (("self", "inner", 7), ("7", "outer", 1)):
        (proc / pid / "ns").mkdir(parents=True)
        (proc / pid / "stat").write_text(f"{pid} (a (b) c) S {parent} 1")
        for kind, name in (("mnt", mounts), ("net", "host")):
            (proc / f"{kind}-{name}").touch()
            (proc / pid / "ns" / kind).symlink_to(proc / f"{kind}-{name}")
    assert outer_process(proc) == 7
    assert await find_own_container("unix:///nonexistent", proc=proc) is None


def test_outside_of_containers_no_ancestor_is_outside() -> None:
    assert outer_process(Path("/nonexistent")) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="who is not root lacks them all, and that is no loss")
def test_each_capability_that_root_lacks_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "self").mkdir()
    (tmp_path / "self/status").write_text(f"Name:\tsidegate\nCapEff:\t{(1 << 41) - 1:016x}\n")
    assert list(lost(tmp_path)) == []
    (tmp_path / "self/status").write_text(f"CapEff:\t{1 << 5 | 1 << 19:016x}\n")
    assert list(lost(tmp_path)) == [
        "CAP_SYS_NICE is missing: on a busy node the first look-up of a new container may come before its networks do"
    ]
