"""The image, built for real: what is in it, what is not, and how it runs with a read-only root and no rights."""

from __future__ import annotations

import gzip
import json
import os
import secrets
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pytest
from image_kit import BASE, IMAGE, ROOT, Builder, Container, missing

pytestmark = [pytest.mark.container, pytest.mark.skipif(bool(missing()), reason=missing() or "all is here")]

UID = 10001
MAX_COMPRESSED_BYTES = 120_000_000
SECRET = secrets.token_urlsafe(48)
RELEASE = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    work = tmp_path_factory.mktemp("build")
    made = Builder(ROOT / ".image")
    made.ensure_base(work)
    made.build(
        work, PYTHON_IMAGE=BASE, VERSION=RELEASE, REVISION="0123456789abcdef", SOURCE="https://example.com/portcullis"
    )
    yield made
    made.forget_image()


@pytest.fixture(scope="module")
def tree(builder: Builder) -> Iterator[Path]:
    with builder.tree(IMAGE) as root:
        yield root


@pytest.fixture(scope="module")
def configuration(builder: Builder) -> dict[str, Any]:
    return builder.configuration()


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """Give a volume as an engine makes it: with the owner and the mode of the image's directory."""
    made = tmp_path / "volume"
    made.mkdir(mode=0o750)
    os.chown(made, UID, UID)
    return made


class Run(Protocol):
    def __call__(self, **environment: str) -> Container: ...


@pytest.fixture
def container(tree: Path, configuration: dict[str, Any], volume: Path, tmp_path: Path) -> Iterator[Run]:
    """Give what makes a container, with its secret as a file that only its user can read."""
    made: list[Container] = []
    held = tmp_path / "secrets"
    held.mkdir()
    (held / "key").write_text(SECRET + "\n")
    (held / "key").chmod(0o400)
    os.chown(held / "key", UID, UID)

    def make(**environment: str) -> Container:
        settings = {"GATEWAY_PUBLIC_URL": "https://gateway.example.com", "GATEWAY_DRAIN_S": "0", **environment}
        made.append(Container(tree, configuration, volume, settings, {"/run/secrets": held}))
        return made[-1]

    yield make
    for each in made:
        if each.process is not None and each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def production(container: Run) -> Container:
    return container(GATEWAY_SECRET_KEY_FILE="/run/secrets/key")


def compressed_bytes(root: Path) -> int:
    """Measure what would be pulled: one layer, packed as registries have it."""

    class Counter:
        size = 0

        def write(self, data: bytes) -> int:
            self.size += len(data)
            return len(data)

    counter = Counter()
    with (
        gzip.GzipFile(fileobj=counter, mode="wb", compresslevel=6) as packed,  # type: ignore[arg-type]
        tarfile.open(fileobj=packed, mode="w|") as archive,
    ):
        archive.add(root, arcname=".")
    return counter.size


def test_the_image_with_its_base_is_smaller_than_120_megabytes(
    builder: Builder,
    tree: Path,
    record_property: Any,  # noqa: ANN401 - pytest's own
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = compressed_bytes(tree)
    with builder.tree(BASE) as base:
        under = compressed_bytes(base)

    with capsys.disabled():
        print(f"\nimage {whole / 1e6:.1f} MB compressed, of which its base {under / 1e6:.1f} MB")  # noqa: T201 - a measurement
    record_property("compressed_bytes", whole)
    assert whole < MAX_COMPRESSED_BYTES


def test_no_installer_and_no_compiler_is_inside(tree: Path) -> None:
    programs = {
        path.name
        for folder in ("usr/bin", "usr/sbin", "usr/local/bin", "opt/portcullis/bin")
        for path in (tree / folder).glob("*")
    }
    refused = {"pip", "pip3", "gcc", "cc", "c++", "clang", "ld", "as", "make", "curl", "wget", "git"}
    assert programs & refused == set()
    found = [
        path
        for top in ("usr", "opt")
        for name in ("pip", "setuptools", "ensurepip")
        for path in (tree / top).rglob(name)
    ]
    assert found == []
    assert list((tree / "usr").rglob("pip-*.whl")) == []


def test_one_command_is_added_to_the_path(tree: Path) -> None:
    names = {path.name for path in (tree / "opt/portcullis/bin").iterdir() if not path.name.startswith("python")}

    assert names == {"gateway"}


def test_nothing_that_the_build_was_given_is_left(tree: Path) -> None:
    assert not (tree / "build").exists()
    assert not (tree / "wheels").exists()
    assert not (tree / "tools").exists()
    assert not (tree / "etc/pip.conf").exists()
    assert [path for path in (tree / "root").rglob("*") if "pip" in path.name] == []


def test_the_user_of_the_image_may_write_to_its_volume_only(tree: Path) -> None:
    own = [path for path in (tree / "opt").rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022]
    assert own == []
    theirs = [path for path in tree.rglob("*") if not path.is_symlink() and path.stat().st_uid == UID]
    assert theirs == [tree / "var/lib/portcullis"]


def test_every_module_of_the_gateway_comes_with_bytecode_that_is_never_checked(tree: Path) -> None:
    (package,) = (tree / "opt/portcullis/lib").glob("python3.*/site-packages/gateway")

    for source in package.rglob("*.py"):
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.*.pyc")
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00", source


def test_the_policies_are_shipped_inside(tree: Path) -> None:
    (shipped,) = (tree / "opt/portcullis/lib").glob("python3.*/site-packages/gateway/shipped/policies")

    assert {path.name for path in shipped.glob("*.yaml")} == {path.name for path in (ROOT / "policies").glob("*.yaml")}


def test_the_image_says_what_it_is(configuration: dict[str, Any]) -> None:
    labels = configuration["Labels"]

    assert labels["org.opencontainers.image.title"] == "Portcullis"
    assert labels["org.opencontainers.image.version"] == RELEASE
    assert labels["org.opencontainers.image.revision"] == "0123456789abcdef"
    assert labels["org.opencontainers.image.source"] == "https://example.com/portcullis"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert configuration["User"] == f"{UID}:{UID}"
    assert configuration["ExposedPorts"] == {"8000/tcp": {}}
    assert configuration["Entrypoint"] == ["gateway"]
    assert configuration["Cmd"] == ["serve", "--host", "0.0.0.0"]  # noqa: S104 - what a container listens on


def test_version_is_that_of_the_release(container: Run) -> None:
    code, out, err = container().run("version", "--json")

    assert (code, err) == (0, "")
    assert json.loads(out)["version"] == RELEASE


def test_without_a_secret_it_says_so_and_does_not_start(container: Run) -> None:
    code, _, err = container().run()

    assert code == 1
    assert "GATEWAY_SECRET_KEY: is not set" in err


def test_it_serves_in_production_on_a_read_only_root_and_stops_with_0_on_sigterm(container: Run, volume: Path) -> None:
    running = production(container)
    running.start()
    running.await_health()

    ready = running.execute(
        "python",
        "-I",
        "-c",
        "from urllib.request import urlopen as o; print(o('http://127.0.0.1:8000/readyz').read().decode())",
    )
    assert json.loads(ready.stdout)["status"] == "ready", ready.stderr
    for place in ("/", "/opt/portcullis", "/etc", "/tmp"):  # noqa: S108 - none may be written to
        assert running.execute("touch", f"{place}/written").returncode != 0, place
    assert (volume / "data").stat().st_mode & 0o777 == 0o700
    assert (volume / "data" / "gateway.db").stat().st_uid == UID
    assert running.stop() == 0, running.output
    assert SECRET not in running.output


def test_a_user_that_was_added_beside_it_logs_in_and_is_there_after_another_start(container: Run) -> None:
    running = production(container)
    running.start()
    running.await_health()
    added = running.execute(
        "gateway",
        "users",
        "add",
        "alice",
        "--role",
        "member",
        "--tenant",
        "acme",
        "--password-stdin",
        stdin="correct horse battery staple\n",
    )
    assert added.returncode == 0, added.stderr
    assert running.stop() == 0, running.output

    again = production(container)
    again.start()
    again.await_health()
    login = again.execute(
        "python",
        "-I",
        "-c",
        """
from urllib.parse import urlencode
from urllib.request import urlopen
form = {"grant_type": "password", "username": "alice", "password": "correct horse battery staple"}
print(urlopen("http://127.0.0.1:8000/token", urlencode(form).encode()).read().decode())
""",
    )
    assert json.loads(login.stdout)["token_type"] == "bearer", login.stderr
    assert again.stop() == 0, again.output


def test_it_can_be_tried_in_development_mode(container: Run, volume: Path) -> None:
    running = container(GATEWAY_PUBLIC_URL="http://127.0.0.1:8000")
    running.start("serve", "--dev", "--host", "0.0.0.0")  # noqa: S104 - what a container listens on
    running.await_health()

    assert running.stop() == 0, running.output
    assert "alice" in json.loads((volume / "data" / "demo-users.json").read_text())
    assert "alice" in running.output


def test_it_takes_a_volume_that_was_mounted_for_its_group(container: Run, volume: Path) -> None:
    os.chown(volume, 0, UID)
    volume.chmod(0o2770)

    running = production(container)
    running.start()
    running.await_health()

    assert running.stop() == 0, running.output


def test_a_dead_server_is_unhealthy(container: Run) -> None:
    beside = production(container)
    beside.start("connect", "--token-stdin", "--stay", "http://127.0.0.1:8000")

    assert not beside.healthy()
