"""Containers made anew on the real engine: their inspect documents compared field by field, and their data."""

import asyncio
import json
from collections.abc import AsyncIterator

import docker as sdk
import pytest

from adapters.documents_compared import differences, inspect
from adapters.labs import docker
from adapters.workload_labs import IMAGE, PREFIX, SUBNETS, clean, fresh
from sidegate.adapters.docker import DockerWorkloads
from sidegate.core.workloads import Snapshot
from sidegate.errors import RefusedError

pytestmark = pytest.mark.engine

COMPOSE_LABELS = {
    "com.docker.compose.project": "shop",
    "com.docker.compose.service": "web",
    "com.docker.compose.container-number": "1",
    "com.docker.compose.oneoff": "False",
    "com.docker.compose.version": "2.27.0",
    "com.docker.compose.config-hash": "5f3c1c6c8f3b0a1c6d",
    "com.docker.compose.project.config_files": "/srv/shop/compose.yaml",
    "com.docker.compose.project.working_dir": "/srv/shop",
    "com.docker.compose.depends_on": "db:service_healthy:false",
    "org.opencontainers.image.title": "shop, with = and , in it",
    "empty": "",
    "sidegate.none": "unknown labels stay, too",
}


@pytest.fixture
async def workloads() -> AsyncIterator[DockerWorkloads]:
    workloads = DockerWorkloads()
    try:
        yield workloads
    finally:
        await workloads.close()
        await clean(PREFIX)


async def replaced(workloads: DockerWorkloads, name: str, **changed: str) -> Snapshot:
    """Put a copy in a container's place, the first one stopped before the copy starts; returns what was there."""
    original = (await workloads.snapshots([name]))[name]
    await workloads.check(original)
    copy = await workloads.copy(original, f"{name}.sidegate-next", {**original.env, **changed})
    await workloads.stop(original.id)
    await workloads.rename(original.id, f"{name}.sidegate-old")
    if original.running:
        await workloads.start(copy)
    await workloads.rename(copy, name)
    await workloads.remove(original.id)
    return original


async def test_a_compose_container_keeps_everything(workloads: DockerWorkloads) -> None:
    """Two networks, aliases, a static address, anonymous volumes with data, a health check, limits, capabilities and a
    dozen labels: nothing differs but the variables, and that the volumes are now asked for by name."""
    name, front, back, volume = fresh(), fresh("n"), fresh("n"), fresh("v")
    subnet = next(SUBNETS)
    await docker("network", "create", "--subnet", str(next(SUBNETS)), front)
    await docker("network", "create", "--subnet", str(subnet), "--ipv6", "--subnet", "fd00:5a::/64", back)
    address = str(subnet.network_address + 20)
    await docker(
        *("create", "--name", name, "--hostname", "web", "--network", front),
        *("--network-alias=web", f"--network-alias={name}"),
        *(f"--label={key}={value}" for key, value in COMPOSE_LABELS.items()),
        *("--env=A=1", "--env=OLD=x y", "--env=UNSET_BY_NAME", "--stop-timeout=0", "--restart=unless-stopped"),
        *("--volume=/data", "--mount=type=volume,dst=/cache", f"--volume={volume}:/named:ro", "--tmpfs=/run:size=64k"),
        *("--volume=/usr/share:/share:ro", "--mount=type=tmpfs,dst=/scratch,tmpfs-size=100000"),
        *("--health-cmd=test -e /data/kept", "--health-interval=1s", "--health-retries=5", "--health-start-period=2s"),
        *("--memory=64m", "--memory-reservation=32m", "--cpus=0.5", "--pids-limit=50", "--ulimit=nofile=100:200"),
        *("--cap-add=NET_ADMIN", "--cap-drop=MKNOD", "--security-opt=no-new-privileges", "--read-only", "--init"),
        *("--sysctl=net.core.somaxconn=200", "--device=/dev/null:/dev/none", "--group-add=12", "--shm-size=32m"),
        *("--dns=192.0.2.53", "--dns-search=example.org", "--add-host=old:192.0.2.1", "--expose=8080"),
        *("--log-opt=max-size=1m", "--log-opt=max-file=2", "--publish=127.0.0.1:24991:8080", "--user=0:0"),
        *("--workdir=/tmp", "--entrypoint=sleep", IMAGE, "infinity"),
    )
    await docker("network", "connect", "--alias=shop", "--ip", address, "--ip6=fd00:5a::20", back, name)
    await docker("start", name)
    for path in ("/data/kept", "/cache/kept"):
        await docker("exec", name, "sh", "-c", f"echo {path} > {path}")
    await _healthy(name)
    before = await inspect(name)

    await replaced(workloads, name, OLD="a new\nvalue", ADDED="'\"$`\\%")

    await _healthy(name)
    after = await inspect(name)
    for path in ("/data/kept", "/cache/kept"):
        assert await docker("exec", name, "cat", path) == path
    assert after["Id"] != before["Id"]
    cache, data = (
        next(m["Name"] for m in before["Mounts"] if m["Destination"] == path) for path in ("/cache", "/data")
    )
    changed = before["Config"]["Env"].index("OLD=x y")
    assert differences(before, after) == {
        f"Config/Env/{changed}": ("OLD=x y", "OLD=a new\nvalue"),
        "Config/Env/3": (None, "ADDED='\"$`\\%"),
        "HostConfig/Mounts/0/Source": (None, cache),
        "HostConfig/Mounts/0/VolumeOptions/NoCopy": (None, True),
        "HostConfig/Mounts/2/Source": (None, data),
        "HostConfig/Mounts/2/Target": (None, "/data"),
        "HostConfig/Mounts/2/Type": (None, "volume"),
        "HostConfig/Mounts/2/VolumeOptions/NoCopy": (None, True),
        "Mounts//data/Mode": ("", "z"),
    }
    assert after["NetworkSettings"]["Networks"][back]["IPAddress"] == address

    await replaced(workloads, name)
    await _healthy(name)
    assert differences(after, await inspect(name)) == {}
    await docker("rm", "--force", "--volumes", name)
    assert {cache, data} <= set((await docker("volume", "ls", "-q")).split())
    await docker("volume", "rm", cache, data)


async def _healthy(name: str) -> None:
    async with asyncio.timeout(60):
        while (await docker("inspect", "-f", "{{.State.Health.Status}}", name)) != "healthy":
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "options",
    [
        "--publish-all --expose 99 --expose 98/udp",
        "--network host",
        "--network none",
        "--network container:{other}",
        "--network {network} --network-alias q --ip {address}",
        "--network {network_id}",
        "--network {network} --link {other}:its-alias",
        "--link {other}:its-alias",
        "--pid container:{other} --ipc host --uts host",
        "--volumes-from {other}",
        "-it --user 1000:1000 --workdir /tmp --stop-signal SIGUSR1 --hostname a --domainname example.org",
        "--security-opt seccomp=unconfined --security-opt systempaths=unconfined --cgroupns private --cpuset-cpus 0",
        "--log-driver local --restart on-failure:3 --oom-score-adj 100 --no-healthcheck",
    ],
)
async def test_whatever_else_was_asked_for_is_kept(workloads: DockerWorkloads, options: str) -> None:
    """Not one field differs, but ports that the engine chose."""
    name, other, network = fresh(), fresh(), fresh("n")
    subnet = next(SUBNETS)
    network_id = await docker("network", "create", "--subnet", str(subnet), network)
    await docker("run", "--detach", "--name", other, "--volume=/theirs", IMAGE, "sleep", "infinity")
    await docker("network", "connect", network, other)
    told = options.format(other=other, network=network, network_id=network_id, address=subnet.network_address + 9)
    await docker("run", "--detach", "--name", name, *told.split(), "--stop-timeout=0", IMAGE, "sleep", "infinity")
    before = await inspect(name)
    await replaced(workloads, name)
    found = differences(before, await inspect(name))
    assert {path for path in found if not path.startswith("NetworkSettings/Ports/")} == set()
    await docker("rm", "--force", name)


async def test_networks_that_were_left_and_joined_later(workloads: DockerWorkloads) -> None:
    """A container that was taken off its first network is not on it again, and is on the one that it was given."""
    name, network = fresh(), fresh("n")
    await docker("network", "create", "--subnet", str(next(SUBNETS)), network)
    await docker("run", "--detach", "--name", name, "--stop-timeout=0", IMAGE, "sleep", "infinity")
    await docker("network", "connect", "--alias=z", network, name)
    await docker("network", "disconnect", "bridge", name)
    before = await inspect(name)
    await replaced(workloads, name)
    assert differences(before, await inspect(name)) == {}


async def test_an_address_of_hardware_that_was_asked_for(workloads: DockerWorkloads) -> None:
    """A MAC address is kept, and keeps two from running side by side."""
    name = fresh()
    with sdk.APIClient(version="1.41") as api:
        api.create_container(IMAGE, ["sleep", "infinity"], name=name, mac_address="02:42:aa:bb:cc:dd", stop_timeout=0)
    await docker("start", name)
    before = await inspect(name)
    original = await replaced(workloads, name)
    assert differences(before, await inspect(name)) == {}
    assert original.strategy_fault == "it has the fixed MAC address 02:42:aa:bb:cc:dd"


async def test_an_image_whose_name_has_moved_on(workloads: DockerWorkloads) -> None:
    """The copy is of the image that the original was made of, told by its id; a reset entrypoint stays reset."""
    name, tag = fresh(), f"{fresh('i')}:1"
    await docker("tag", "sidegate-mariadb", tag)
    try:
        await docker("create", "--name", name, "--entrypoint=", "--volume=/var/lib/mysql", tag, "sleep", "infinity")
        await docker("tag", IMAGE, tag)
        before = await inspect(name)
        assert before["Config"]["Entrypoint"] is None
        await replaced(workloads, name)
        after = await inspect(name)
        found = {path: values for path, values in differences(before, after).items() if "ounts/" not in path}
        assert found == {"Config/Image": (tag, before["Image"])}
        assert after["Image"] == before["Image"]
    finally:
        volume = await docker("inspect", "-f", "{{(index .Mounts 0).Name}}", name)
        await docker("rm", "--force", name)
        await docker("volume", "rm", volume)
        await docker("rmi", tag)


async def test_a_volume_that_was_emptied_stays_empty(workloads: DockerWorkloads) -> None:
    """The image's files under the same path do not come back."""
    name = fresh()
    await docker("run", "--detach", "--name", name, "--stop-timeout=0", "--volume=/etc/ssl", IMAGE, "sleep", "infinity")
    await docker("exec", name, "sh", "-c", "rm -rf /etc/ssl/*")
    await replaced(workloads, name)
    assert await docker("exec", name, "ls", "/etc/ssl") == ""
    volume = json.loads(await docker("inspect", "-f", "{{json .Mounts}}", name))[0]["Name"]
    await docker("rm", "--force", name)
    await docker("volume", "rm", volume)


async def test_volumes_go_with_the_last_container_that_has_them(workloads: DockerWorkloads) -> None:
    """Removing the original with its volumes leaves those of the copy, which runs and has their data."""
    name = fresh()
    await docker("run", "--detach", "--name", name, "--stop-timeout=0", "--volume=/data", IMAGE, "sleep", "infinity")
    await docker("exec", name, "sh", "-c", "echo kept > /data/file")
    original = (await workloads.snapshots([name]))[name]
    copy = await workloads.copy(original, f"{name}.sidegate-next", original.env)
    for _ in range(2):
        await workloads.start(copy)
    await workloads.remove(original.id, volumes=True)
    assert await docker("exec", copy, "cat", "/data/file") == "kept"
    volume = json.loads(await docker("inspect", "-f", "{{json .Mounts}}", copy))[0]["Name"]
    await docker("rm", "--force", copy)
    await docker("volume", "rm", volume)


async def test_the_log_of_a_terminal_and_of_none(workloads: DockerWorkloads) -> None:
    """A terminal's log has no frames; a driver that keeps nothing is said."""
    terminal, silent = fresh(), fresh()
    await docker("run", "--tty", "--name", terminal, IMAGE, "sh", "-c", "echo out; echo err >&2; printf end")
    await docker("run", "--detach", "--log-driver=none", "--name", silent, IMAGE, "true")
    found = await workloads.snapshots([terminal, silent])
    assert await workloads.logs(found[terminal].id) == "out\nerr\nend"
    assert [line.text async for line in workloads.follow(found[terminal].id, 1)] == ["end"]
    assert "does not support reading" in await workloads.logs(found[silent].id)


async def test_what_others_would_lose_is_said(workloads: DockerWorkloads) -> None:
    """Containers in its namespace or linked to it hold on to this one and not to its name; a namespace may be gone."""
    shared, inside, linked, linking = (fresh() for _ in range(4))
    for name, options in (
        (shared, ()),
        (inside, ("--network", f"container:{shared}")),
        (linked, ()),
        (linking, ("--link", f"{linked}:db")),
    ):
        await docker("run", "--detach", "--name", name, *options, IMAGE, "sleep", "infinity")
    found = await workloads.snapshots([shared, inside, linked, linking])
    for name, why in (
        (shared, f"container {inside} lives in its network namespace"),
        (linked, f"container {linking} has a --link to it"),
    ):
        with pytest.raises(RefusedError, match=why):
            await workloads.check(found[name])
    await workloads.check(found[inside])
    await workloads.check(found[linking])
    assert found[inside].strategy_fault.startswith("it listens in the network namespace of container")
    await docker("rm", "--force", shared)
    with pytest.raises(RefusedError, match=r"it lives in the network namespace of container \w+, which is gone"):
        await workloads.check(found[inside])
