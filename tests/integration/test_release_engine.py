"""Images to and from a real registry through a real container engine, and every way in which that can fail."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import docker
import httpx
import psutil
import pytest

from clients.engine import Credentials, Engine
from clients.errors import ConfigurationError, PassingFault
from clients.progress import Log
from scripts.docker_engine import answers, client, own_engine
from scripts.registry import Registry, registry
from scripts.services import ROOT, StackError, free_ports
from tests.conftest import wait_while
from tests.docker_engine import Images, random_bytes, small_disk

Connect = Callable[..., Engine]
LABELS = {"io.rps.challenge": "weather"}


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def connect(docker_host: str, said: io.StringIO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Connect]:
    """Connects to the engine with a login, patient for some seconds; without what `docker login` may have left."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "no-docker-config"))
    made: list[Engine] = []

    def connect_as(username: str, password: str, **options: float) -> Engine:
        environment = {**os.environ, "DOCKER_HOST": docker_host}
        log = Log(said, grouped=False)
        options.setdefault("patience_seconds", 4.0)
        made.append(Engine.connect(environment, Credentials(username, password), log, **options))
        return made[-1]

    yield connect_as
    for each in made:
        each.close()


@pytest.fixture
def engine(connect: Connect, image_registry: Registry) -> Engine:
    return connect(image_registry.username, image_registry.password)


def name_at(registry: Registry, tag: str = "1") -> str:
    return f"{registry.address}/rps/weather-{os.urandom(4).hex()}:{tag}"


def image_for(registry: Registry, images: Images, megabytes: float = 0.1) -> str:
    """An image of one layer that no other has, with a name at the registry."""
    return images.build({"/one": random_bytes(megabytes)}, base="scratch", name=name_at(registry))


def image_on_another(registry: Registry, images: Images, megabytes: float) -> str:
    """An image of two layers, of which the engine keeps one when the image is removed."""
    other = images.build({"/other": random_bytes(0.1)}, base="scratch")
    return images.build({"/one": random_bytes(megabytes)}, base=other, labels=LABELS, name=name_at(registry))


def test_what_was_pushed_is_pulled_the_same_by_its_digest(
    engine: Engine, image_registry: Registry, images: Images, said: io.StringIO
) -> None:
    name = image_on_another(image_registry, images, 0.5)
    before = engine.image(name)
    digest = engine.push(name)
    assert digest.startswith("sha256:")
    assert engine.digest_in_registry(name) == digest
    engine.remove(name)
    assert engine.image(name) is None
    repository = name.rpartition(":")[0]
    pulled = engine.pull(images.named(f"{repository}@{digest}"))
    assert before is not None
    assert (pulled.id, pulled.digest, pulled.labels) == (before.id, digest, LABELS)
    assert "1 layers fetched (0.5 MB), 1 were here" in said.getvalue()


def test_a_layer_that_is_there_is_not_sent_again(
    engine: Engine, image_registry: Registry, images: Images, said: io.StringIO
) -> None:
    name = image_on_another(image_registry, images, 0.1)
    first = engine.push(name)
    said.truncate(0)
    latest = images.named(f"{name.rpartition(':')[0]}:latest")
    engine.tag(name, latest)
    assert engine.push(latest) == first
    assert "0 layers sent (0.0 MB), 2 were there" in said.getvalue()
    assert engine.pull(latest).digest == first


def test_an_image_leaves_the_engine_with_all_its_names(
    engine: Engine, image_registry: Registry, images: Images
) -> None:
    name = image_for(image_registry, images)
    other = images.named("rps-test/other-name:1")
    engine.tag(name, other)
    engine.remove(name)
    assert engine.image(other) is None
    engine.remove(name)


def test_an_image_in_use_stays(engine: Engine, images: Images, docker_client: docker.DockerClient) -> None:
    name = images.build({"/one": b"1"})
    container = docker_client.containers.run(name, ["python3", "-c", "import time; time.sleep(600)"], detach=True)
    try:
        assert not engine.remove(name)
        assert engine.image(name) is not None
    finally:
        container.remove(force=True)


def test_what_the_registry_does_not_know_is_distinguished_from_what_it_refuses(
    engine: Engine, connect: Connect, image_registry: Registry, images: Images
) -> None:
    name = image_for(image_registry, images)
    assert engine.digest_in_registry(name) is None
    engine.push(name)
    assert engine.digest_in_registry(f"{name}-other") is None
    with pytest.raises(ConfigurationError, match=f"{image_registry.address} refuses .*REGISTRY_USERNAME and REGISTRY"):
        connect(image_registry.username, "wrong").digest_in_registry(name)
    with pytest.raises(ConfigurationError, match="Set REGISTRY_USERNAME and REGISTRY_PASSWORD"):
        connect("", "").digest_in_registry(name)


@pytest.mark.parametrize("action", ["push", "pull"])
def test_a_refused_login_is_a_wrong_setting_and_is_not_tried_again(
    engine: Engine, connect: Connect, image_registry: Registry, images: Images, said: io.StringIO, action: str
) -> None:
    name = image_for(image_registry, images)
    if action == "pull":
        engine.push(name)
    stranger = connect("somebody", "a-secret-word")
    said.truncate(0)
    with pytest.raises(ConfigurationError, match="REGISTRY_USERNAME and REGISTRY_PASSWORD") as refused:
        getattr(stranger, action)(name)
    assert "trying again" not in said.getvalue()
    assert "a-secret-word" not in said.getvalue() + str(refused.value) + repr(Credentials("a", "a-secret-word"))


def test_an_image_that_is_not_there_is_reported(engine: Engine, image_registry: Registry) -> None:
    name = name_at(image_registry)
    with pytest.raises(ConfigurationError, match=f"{image_registry.address} has no {name}"):
        engine.pull(name)
    with pytest.raises(ConfigurationError, match="the container engine has no such image"):
        engine.push(name)
    with pytest.raises(ConfigurationError, match=r"No such image|not found"):
        engine.tag(name, f"{name}-other")
    with pytest.raises(ConfigurationError, match="name of an image"):
        engine.pull(f"{image_registry.address}/RPS/Weather:1")


def test_a_digest_that_is_gone_from_the_registry_is_none(
    engine: Engine, image_registry: Registry, images: Images
) -> None:
    name = image_for(image_registry, images)
    digest = engine.push(name)
    repository = name.rpartition(":")[0]
    path = repository.partition("/")[2]
    gone = httpx.delete(
        f"http://{image_registry.address}/v2/{path}/manifests/{digest}",
        auth=(image_registry.username, image_registry.password),
    )
    assert gone.status_code == 202
    assert engine.digest_in_registry(f"{repository}@{digest}") is None
    engine.remove(name)
    with pytest.raises(ConfigurationError, match="has no"):
        engine.pull(f"{repository}@{digest}")


def test_a_registry_that_is_not_there_is_waited_for_and_then_reported(
    connect: Connect, images: Images, said: io.StringIO
) -> None:
    engine = connect("a", "b", patience_seconds=3.0)
    name = images.build({"/one": b"1"}, base="scratch", name=f"127.0.0.1:{free_ports(1)}/rps/weather:1")
    with pytest.raises(PassingFault, match=r"connection refused.*Tried for 3 s"):
        engine.push(name)
    assert "trying again in 1 s" in said.getvalue()
    with pytest.raises(PassingFault, match="connection refused"):
        engine.pull(name)
    with pytest.raises(PassingFault, match="connection refused"):
        engine.digest_in_registry(name)


def test_an_unknown_host_is_reported(connect: Connect) -> None:
    with pytest.raises(PassingFault, match=r"registry\.invalid is not found .*is its name right"):
        connect("a", "b", patience_seconds=0.0).digest_in_registry("registry.invalid/rps/weather:1")


def test_a_registry_that_comes_back_gets_the_image(
    connect: Connect, own_registry: Registry, images: Images, said: io.StringIO
) -> None:
    name = image_for(own_registry, images)
    engine = connect(own_registry.username, own_registry.password, patience_seconds=120.0)
    own_registry.stop()
    back = threading.Timer(2.0, own_registry.start)
    back.start()
    digest = engine.push(name)
    back.join()
    assert engine.digest_in_registry(name) == digest
    assert "trying again" in said.getvalue()


def test_a_registry_that_is_lost_in_the_midst_of_a_push_and_back_again_has_the_whole_image(
    connect: Connect, own_registry: Registry, images: Images
) -> None:
    name = image_for(own_registry, images, 20)
    engine = connect(own_registry.username, own_registry.password, patience_seconds=120.0)
    seen: list[int] = []

    def lose_it() -> None:
        uploads = own_registry.storage
        wait_while(lambda: _bytes_below(uploads) < 1e6, seconds=60, pause=0.005)
        own_registry.stop()
        seen.append(_bytes_below(uploads))
        own_registry.start()

    losing = threading.Thread(target=lose_it)
    losing.start()
    digest = engine.push(name)
    losing.join()
    assert seen
    assert engine.digest_in_registry(name) == digest
    before = engine.image(name)
    engine.remove(name)
    pulled = engine.pull(f"{name.rpartition(':')[0]}@{digest}")
    assert before is not None
    assert pulled.id == before.id


def test_a_registry_that_stays_lost_in_the_midst_of_a_push_has_no_image(
    connect: Connect, own_registry: Registry, images: Images
) -> None:
    name = image_for(own_registry, images, 20)
    engine = connect(own_registry.username, own_registry.password, patience_seconds=1.0)

    def lose_it() -> None:
        wait_while(lambda: _bytes_below(own_registry.storage) < 1e6, seconds=60, pause=0.005)
        own_registry.stop()

    losing = threading.Thread(target=lose_it)
    losing.start()
    with pytest.raises(PassingFault, match=f"pushing {name}: the registry {own_registry.address}"):
        engine.push(name)
    losing.join()
    own_registry.start()
    assert engine.digest_in_registry(name) is None


def test_a_registry_that_hangs_is_given_up(connect: Connect, own_registry: Registry, images: Images) -> None:
    if own_registry.pid is None:
        pytest.skip("the registry is a container: apt-get install docker-registry")
    name = image_for(own_registry, images)
    engine = connect(own_registry.username, own_registry.password, patience_seconds=1.0, silence_seconds=4.0)
    os.kill(own_registry.pid, signal.SIGSTOP)
    try:
        with pytest.raises(PassingFault, match="pushing"):
            engine.push(name)
        with pytest.raises(PassingFault, match="pulling"):
            engine.pull(name)
    finally:
        os.kill(own_registry.pid, signal.SIGCONT)


def test_a_registry_that_takes_nothing_is_reported_in_its_own_words(
    connect: Connect, own_registry: Registry, images: Images
) -> None:
    name = image_for(own_registry, images)
    own_registry.stop()
    own_registry.read_only = True
    own_registry.start()
    engine = connect(own_registry.username, own_registry.password, patience_seconds=1.0)
    with pytest.raises(PassingFault, match=r"unsupported|not allowed|405"):
        engine.push(name)


def test_a_registry_that_is_full_is_reported_in_its_own_words(
    connect: Connect, docker_host: str, images: Images, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "disk", megabytes=4) as disk,
        registry(tmp_path / "registry", docker_host, storage=disk) as full,
    ):
        name = image_for(full, images, 8)
        engine = connect(full.username, full.password, patience_seconds=1.0)
        with pytest.raises(PassingFault, match=f"pushing {name}: the registry {full.address}"):
            engine.push(name)
        assert engine.digest_in_registry(name) is None
        assert "no space left" in full.log()


def test_no_engine_is_a_wrong_setting(tmp_path: Path) -> None:
    log = Log(io.StringIO(), grouped=False)
    with pytest.raises(ConfigurationError, match=r"no container engine answers at unix://.*DOCKER_HOST"):
        Engine.connect({"DOCKER_HOST": f"unix://{tmp_path}/none.sock"}, None, log)
    with pytest.raises(ConfigurationError, match=r"no container engine answers at tcp://127.0.0.1"):
        Engine.connect({"DOCKER_HOST": f"tcp://127.0.0.1:{free_ports(1)}"}, None, log)


def test_an_engine_that_is_lost_is_a_passing_fault(tmp_path: Path, said: io.StringIO) -> None:
    with engine_of_our_own(tmp_path) as address:
        engine = Engine.connect({"DOCKER_HOST": address}, None, Log(said, grouped=False), patience_seconds=1.0)
        assert engine.published_at == ("127.0.0.1", "127.0.0.1")
        kill_dockerd(address)
        with pytest.raises(PassingFault, match="the container engine does not answer"):
            engine.pull("127.0.0.1:9/rps/weather:1")
        with pytest.raises(PassingFault, match=r"the container engine at .* is at fault"):
            engine.image("rps/weather:1")


def test_an_engine_of_our_own_leaves_nothing_behind_even_when_its_caller_is_killed(tmp_path: Path) -> None:
    """A container that runs on is what a killed demo leaves; the next start finds and ends it."""
    with engine_of_our_own(tmp_path):
        pass
    code = (
        "import sys, time; from pathlib import Path; from scripts.docker_engine import own_engine, client\n"
        "with own_engine(Path(sys.argv[1])) as address:\n"
        "    engine = client(address)\n"
        "    engine.api.import_image_from_data(Path(sys.argv[2]).read_bytes(), repository='left', tag='1')\n"
        "    engine.containers.run('left:1', ['/bin/sleep', '4321'], detach=True)\n"
        "    print(address, flush=True); time.sleep(600)\n"
    )
    (tmp_path / "tar").write_bytes(_system_with("/bin/sleep"))
    command = [sys.executable, "-c", code, str(tmp_path / "own"), str(tmp_path / "tar")]
    caller = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert caller.stdout is not None
    address = caller.stdout.readline().strip()
    assert answers(address)
    caller.kill()
    caller.wait()
    assert _running("/bin/sleep 4321")
    kill_dockerd(address)
    assert _running("/bin/sleep 4321")
    with own_engine(tmp_path / "own") as again:
        assert again == address
        assert not _running("/bin/sleep 4321")
        assert not client(again).containers.list(all=True)
        with pytest.raises(StackError, match="another process runs a container engine"), own_engine(tmp_path / "own"):
            pass
    assert not answers(address)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "own")


def test_engines_beside_each_other_have_subnets_of_their_own(tmp_path: Path) -> None:
    """Also when one of them was here before the other, and alone."""
    with engine_of_our_own(tmp_path / "first") as first:
        assert first
    with engine_of_our_own(tmp_path / "second") as second, engine_of_our_own(tmp_path / "first") as first:
        assert first != second
        subnets = [bridge_address(each) for each in (first, second)]
    assert len(set(subnets)) == 2


def test_a_registry_whose_caller_was_killed_is_ended_by_the_next(own_registry: Registry, docker_host: str) -> None:
    before = own_registry.pid
    if before is None:
        pytest.skip("the registry is a container: apt-get install docker-registry")
    with registry(own_registry.home, docker_host) as after:
        assert not psutil.pid_exists(before) or psutil.Process(before).status() == psutil.STATUS_ZOMBIE
        assert after.answers()


@contextmanager
def engine_of_our_own(home: Path) -> Iterator[str]:
    """An engine beside the machine's, which the test may kill."""
    with ExitStack() as held:
        try:
            address = held.enter_context(own_engine(home / "own"))
        except StackError as error:
            pytest.skip(str(error))
        yield address


def kill_dockerd(address: str) -> None:
    pid = int(Path(address.removeprefix("unix://")).with_name("pid").read_text())
    os.kill(pid, signal.SIGKILL)
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)


def bridge_address(address: str) -> str:
    """Of an engine of our own; it stands in the name of the engine's directory which bridge is its."""
    mark = Path(address.removeprefix("unix://")).parent.name.removeprefix("rps-engine-")
    found = psutil.net_if_addrs()[f"rps{mark}"]
    return next(each.address for each in found if each.family == socket.AF_INET)


def _bytes_below(path: Path) -> int:
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(folder, name).stat().st_size
    return total


def _running(command: str) -> bool:
    found = False
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found = found or (" ".join(process.cmdline()) == command and process.status() != psutil.STATUS_ZOMBIE)
    return found


def _system_with(program: str) -> bytes:
    """A file system as a tar archive that holds a program of this machine, and what it is linked with."""
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
    paths = {program, *re.findall(r"/\S+", linked)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", dereference=True) as tar:
        for path in sorted(paths):
            tar.add(path, arcname=path.lstrip("/"))
    return buffer.getvalue()
