"""docker-compose.edge.yml and what it mounts: complete, shut off, and agreeing with the settings."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from edge.config import CREDENTIALS, Settings, load
from edge.doors.mosquitto import find

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.edge.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROLES = ("migrate", "ingest", "worker", "web")


def module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "etc" / "compose" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_parts_are_there() -> None:
    assert list(SERVICES) == ["postgres", "qdrant", "broker", *ROLES]


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_shut_off_watched_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["logging"]["options"].keys() == {"max-size", "max-file"}
    limits = service["deploy"]["resources"]["limits"]
    assert limits.keys() == {"cpus", "memory", "pids"}
    if name == "migrate":
        assert (service["restart"], service["healthcheck"]) == ("no", {"disable": True})
    else:
        assert service["restart"] == "unless-stopped"
        assert service["healthcheck"].keys() == {"test", "interval", "timeout", "retries", "start_period"}


def test_only_the_broker_and_the_dashboard_can_be_reached() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert ports == {"broker": ["1883:1883"], "web": ["127.0.0.1:8080:8080"]}
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    for name, service in SERVICES.items():
        # Webhooks lead out of `ingest`.
        outside = name in ports or name == "ingest"
        assert service["networks"] == (["inside", "plant"] if outside else ["inside"])
        assert "network_mode" not in service


def test_images_are_pinned() -> None:
    for name, service in SERVICES.items():
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"v?\d", tag), name
    stages = re.findall(r"(?m)^FROM (\S+)", (ROOT / "etc/compose/Dockerfile").read_text("utf-8"))
    assert all(re.search(r":\d", stage) for stage in stages)


def test_every_file_it_names_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file(), source
                assert volume.endswith(":ro"), source
            else:
                assert source in COMPOSE["volumes"]
        if "build" in service:
            assert (ROOT / service["build"]["dockerfile"]).is_file()
    for words in re.findall(r"(?m)^COPY (?!--)(.+)$", (ROOT / "etc/compose/Dockerfile").read_text("utf-8")):
        for source in words.split()[:-1]:
            assert (ROOT / source).exists(), source


def test_volumes_secrets_and_dependencies_are_declared() -> None:
    named = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", []) if volume[0] != "."}
    assert named == set(COMPOSE["volumes"])
    assert {secret for s in SERVICES.values() for secret in s.get("secrets", [])} == set(COMPOSE["secrets"])
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "migrate" else "service_healthy"
            assert how == {"condition": wanted}


def test_the_roles_get_only_settings_and_secrets_there_are() -> None:
    from typer.main import get_command

    from edge.cli import app

    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name in ROLES:
        service = SERVICES[name]
        assert service["command"] == [name]
        assert name in commands
        assert set(service["secrets"]) <= set(CREDENTIALS)
        loaded = load(environ=service["environment"])
        assert isinstance(loaded, Settings)
        assert loaded.vectors.url == "http://qdrant:6333"
        assert loaded.broker.url == "mqtt://broker:1883"
    assert load(environ=SERVICES["web"]["environment"]).web.host == "0.0.0.0"
    assert load(environ=SERVICES["web"]["environment"]).web.port == 8080


def test_the_image_is_built_from_lock_files_and_runs_as_nobody_in_particular() -> None:
    text = (ROOT / "etc/compose/Dockerfile").read_text("utf-8")
    for line in re.findall(r"uv pip install .*", text):
        assert "--require-hashes" in line or "--no-deps --editable ." in line
    assert re.search(r"(?m)^USER 10001:10001$", text)
    assert text.index("USER 10001") > text.rindex("FROM ")
    ignored = (ROOT / "etc/compose/Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored, "nothing gets in that is not named: not the data, not the secrets"
    assert not any(line.startswith("!secrets") for line in ignored)


def test_docker_itself_understands_it(tmp_path: Path) -> None:
    """Only where the compose plugin is installed: without it the tests above speak."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "compose", "version"], capture_output=True, timeout=30).returncode:
        return
    done = subprocess.run(
        [docker, "compose", "-f", FILE, "config", "--format", "json"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["services"].keys() == SERVICES.keys()


def test_secrets_are_made_once_and_fit_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make = module("make_secrets")
    folder = tmp_path / "secrets"
    make.main(["camera-7"], folder)
    name, password = capsys.readouterr().out.split()
    assert {path.name for path in folder.iterdir()} == {*COMPOSE["secrets"], ".gitignore"}
    assert folder.stat().st_mode & 0o777 == 0o700
    before = {path.name: path.read_text("utf-8") for path in folder.iterdir()}
    make.main(["camera-7"], folder)
    assert {path.name: path.read_text("utf-8") for path in folder.iterdir()} == before
    loaded = load(environ={"CREDENTIALS_DIRECTORY": str(folder)})
    assert before["database-password"] in loaded.database.dsn.get_secret_value()
    assert loaded.broker.password.get_secret_value() == before["broker-password"]
    assert name == "camera-7"
    assert password not in before["broker-passwords"]
    with pytest.raises(SystemExit, match="edge is taken"):
        make.main(["edge"], folder)
    with pytest.raises(SystemExit, match="cannot be"):
        make.main(["a:b"], folder)


def test_a_real_broker_takes_its_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """mosquitto itself reads the file; accounts and the list of who may do what do what they say."""
    program, pub, sub = find("mosquitto"), find("mosquitto_pub"), find("mosquitto_sub")
    assert program is not None, "mosquitto is missing: run `make install`"
    assert pub is not None
    assert sub is not None
    make = module("make_secrets")
    make.main(["camera-7"], tmp_path / "secrets")
    password = capsys.readouterr().out.split()[1]
    own = (tmp_path / "secrets" / "broker-password").read_text("utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    text = (ROOT / "etc/mosquitto/mosquitto.conf").read_text("utf-8")
    for old, new in (
        ("listener 1883", f"listener {port} 127.0.0.1"),
        ("/run/secrets/", f"{tmp_path}/secrets/"),
        ("/mosquitto/config/", f"{ROOT}/etc/mosquitto/"),
        ("/mosquitto/data/", f"{tmp_path}/"),
    ):
        assert old in text
        text = text.replace(old, new)
    # It gives up root, and then could not read what belongs to root.
    (tmp_path / "mosquitto.conf").write_text(text + "user root\n", "utf-8")

    def answers(port: int) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    def client(name: Path, *words: str) -> int:
        return subprocess.run(
            [name, "-h", "127.0.0.1", "-p", str(port), "-V", "5", *words], capture_output=True, timeout=20
        ).returncode

    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen([program, "-c", tmp_path / "mosquitto.conf"], stdout=log, stderr=log) as broker,
    ):
        try:
            deadline = time.monotonic() + 10
            while not answers(port):
                assert time.monotonic() < deadline, (tmp_path / "log").read_text("utf-8")
                assert broker.poll() is None, (tmp_path / "log").read_text("utf-8")
                time.sleep(0.05)
            camera = ("-u", "camera-7", "-P", password, "-q", "1", "-n", "-t")
            assert client(pub, "-t", "andon/demo/a/b/c/camera/camera-7", "-n") != 0, "nobody without an account"
            assert "Warning: Mosquitto should not be run as root" in (tmp_path / "log").read_text("utf-8")
            assert (tmp_path / "log").read_text("utf-8").count("\n") == 1, "it has nothing else to say about the file"
            plain = [pub, "-h", "127.0.0.1", "-p", str(port), "-t", "health", "-n"]
            assert subprocess.run(plain, capture_output=True, timeout=20).returncode == 5, "as the health check expects"
            reader = subprocess.Popen(
                [
                    sub,
                    "-h",
                    "127.0.0.1",
                    "-p",
                    str(port),
                    "-u",
                    "edge",
                    "-P",
                    own,
                    "-t",
                    "andon/#",
                    "-v",
                    "-C",
                    "1",
                    "-W",
                    "10",
                ],
                stdout=subprocess.PIPE,
            )
            time.sleep(0.5)
            client(pub, *camera, "andon/demo/a/b/c/camera/camera-8")
            client(pub, *camera, "andon/demo/a/b/c/camera/camera-7")
            said, _ = reader.communicate(timeout=20)
            assert said.split()[0] == b"andon/demo/a/b/c/camera/camera-7", "a publisher speaks for itself only"
        finally:
            broker.terminate()
            broker.wait(10)
