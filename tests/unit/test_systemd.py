"""The units as systemd itself reads and rates them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest

from edge.config import CREDENTIALS
from edge.roles.loop import BEAT

ROOT = Path(__file__).parents[2] / "systemd"
UNITS = sorted(path.name for path in ROOT.iterdir() if path.is_file())
SERVICES = [name for name in UNITS if name.endswith(".service")]
ROLES = ["edge-ingest.service", "edge-worker.service", "edge-web.service", "edge-vectors.service"]

#: In tenths, as the tool takes it.
EXPOSURE = 13


@pytest.fixture(scope="session")
def analyze() -> str:
    """The path of systemd-analyze. A machine without it is told so; nothing is skipped."""
    found = shutil.which("systemd-analyze")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(
            ["apt-get", "install", "-y", "-q", "--no-install-recommends", "systemd"], timeout=100, check=False
        )
        found = shutil.which("systemd-analyze")
    assert found, "systemd-analyze is missing: install the package systemd (make test does, as root)"
    return found


@pytest.fixture(scope="session")
def units(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units with a program that exists on this machine: `verify` looks whether it can be started."""
    folder = tmp_path_factory.mktemp("units")
    for name in UNITS:
        text = (ROOT / name).read_text("utf-8")
        (folder / name).write_text(text.replace("/opt/andon-edge/.venv/bin/edge", "/bin/true"), "utf-8")
    return folder


def read(name: str) -> dict[str, list[str]]:
    """Every key with all its values. Sections are folded: no key of ours stands in two of them."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / name).read_text("utf-8").splitlines():
        if line and line[0] not in "#[":
            key, _, value = line.partition("=")
            found.setdefault(key, []).append(value)
    return found


def test_systemd_has_nothing_to_say_about_them(analyze: str, units: Path) -> None:
    done = subprocess.run(
        [analyze, "verify", "--man=no", *(units / name for name in UNITS)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_each_is_shut_off_from_what_it_does_not_need(analyze: str, units: Path, name: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={EXPOSURE}", "--no-pager", units / name],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", ROLES)
def test_a_role_is_watched_and_comes_back(name: str) -> None:
    unit = read(name)
    assert unit["Type"] == ["notify"]
    assert unit["Restart"] == ["always"]
    assert unit["StartLimitIntervalSec"] == ["0"], "nobody is there to start it again"
    assert 3 * BEAT < int(unit["WatchdogSec"][0]) <= 60
    assert unit["ExecStart"] == [f"/opt/andon-edge/.venv/bin/edge {name[5:-8]}"]


@pytest.mark.parametrize("name", SERVICES)
def test_secrets_come_as_credentials_that_the_settings_know(name: str) -> None:
    unit = read(name)
    for entry in unit.get("LoadCredential", []):
        identity, _, source = entry.partition(":")
        assert identity in CREDENTIALS
        assert source == f"andon-edge.{identity}"
    assert ("LoadCredential" in unit) == (name != "edge-vectors.service")
    assert unit["User"] == ["andon-edge"]
    assert unit["EnvironmentFile"] == ["-/etc/andon-edge/env"]
    assert unit["StateDirectory"] == ["andon-edge"]
    assert "EDGE__DATA__DIR=/var/lib/andon-edge" in unit["Environment"][0]


def test_every_unit_a_unit_names_is_here_or_systemds_own() -> None:
    text = "".join((ROOT / name).read_text("utf-8") for name in UNITS)
    named = set(re.findall(r"\bedge[\w-]*\.(?:service|target|timer)\b", text))
    assert named <= set(UNITS)


def test_commands_of_the_units_exist() -> None:
    from typer.main import get_command

    from edge.cli import app

    known = get_command(app).commands  # type: ignore[attr-defined]
    for name in SERVICES:
        words = read(name)["ExecStart"][0].split()[1:]
        assert words[0] in known
        if len(words) > 1:
            assert words[1] in known[words[0]].commands


def test_the_account_and_its_folders_are_declared() -> None:
    account = (ROOT / "sysusers.d" / "andon-edge.conf").read_text("utf-8")
    assert re.search(r'^u andon-edge - "Andon Edge" /var/lib/andon-edge ', account, re.MULTILINE)
    folders = (ROOT / "tmpfiles.d" / "andon-edge.conf").read_text("utf-8")
    assert re.search(r"^d /etc/andon-edge 0750 root andon-edge$", folders, re.MULTILINE)
    assert re.search(r"^d /var/lib/andon-edge 0750 andon-edge andon-edge$", folders, re.MULTILINE)


def test_sysusers_and_tmpfiles_are_understood(tmp_path: Path) -> None:
    for tool, kind in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        found = shutil.which(tool)
        assert found, f"{tool} is missing: install the package systemd"
        target = tmp_path / "usr" / "lib" / kind
        target.mkdir(parents=True)
        shutil.copy(ROOT / kind / "andon-edge.conf", target)
    (tmp_path / "etc").mkdir()
    made = subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], capture_output=True, text=True, timeout=60)
    assert made.returncode == 0, made.stderr
    assert "andon-edge" in (tmp_path / "etc" / "passwd").read_text("utf-8")


def test_the_timer_makes_up_for_a_night_without_power() -> None:
    parsed = ConfigParser(strict=False, interpolation=None)
    parsed.optionxform = str  # type: ignore[assignment, method-assign]
    parsed.read_string((ROOT / "edge-snapshot.timer").read_text("utf-8"))
    assert parsed["Timer"]["Persistent"] == "yes"
