"""Settings: one file that explains all of them, an order of precedence, and a sentence for every mistake."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from edge import config
from edge.config import CREDENTIALS, Settings, resources
from edge.errors import Stop

FILE = resources() / "etc" / "edge.toml"
DEFAULTS = Settings()

_SECTION = re.compile(r"\[(\w+)\]")
_DEFAULT = re.compile(r"#(\w+) = .+")
_EXAMPLE = re.compile(r"#example (\w+) = .+")


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on this machine may speak for it: a test that names no file has none."""
    monkeypatch.setattr(config, "Path", _hidden(config.Path))


def _hidden(real: type[Path]) -> Any:
    def path(*parts: Any) -> Path:
        if parts in (("/etc/andon-edge/edge.toml",), ("/run/secrets",)):
            return real("/nonexistent", *(str(part).strip("/") for part in parts))
        return real(*parts)

    return path


def explained() -> tuple[dict[tuple[str, str], str], dict[tuple[str, str], str]]:
    """(lines that show a default, lines that show an example), by section and key, each line as it would be used."""
    defaults: dict[tuple[str, str], str] = {}
    examples: dict[tuple[str, str], str] = {}
    section = ""
    for line in FILE.read_text("utf-8").splitlines():
        if found := _SECTION.fullmatch(line):
            section = found[1]
        elif found := _EXAMPLE.fullmatch(line):
            assert (section, found[1]) not in examples
            examples[section, found[1]] = line.removeprefix("#example ")
        elif found := _DEFAULT.fullmatch(line):
            assert (section, found[1]) not in defaults
            defaults[section, found[1]] = line.removeprefix("#")
    return defaults, examples


def known() -> dict[tuple[str, str], Any]:
    return {
        (section, key): getattr(getattr(DEFAULTS, section), key)
        for section in Settings.model_fields
        for key in type(getattr(DEFAULTS, section)).model_fields
    }


def test_the_file_explains_exactly_the_settings_there_are() -> None:
    defaults, examples = explained()
    assert set(defaults) | set(examples) == set(known())
    assert set(examples) == {place for place, value in known().items() if value is None}
    sections = _SECTION.findall("\n".join(re.findall(r"(?m)^\[\w+\]$", FILE.read_text("utf-8"))))
    assert sections == list(Settings.model_fields), "in the order of the code"
    assert not set(defaults) & set(examples)


def test_as_it_is_it_changes_nothing() -> None:
    assert config.load(FILE, environ={}) == DEFAULTS


def test_uncommented_it_says_the_defaults() -> None:
    text = "\n".join(
        line.removeprefix("#") if _DEFAULT.fullmatch(line) else line for line in FILE.read_text("utf-8").splitlines()
    )
    values = tomllib.loads(text)
    for (section, key), default in known().items():
        if default is not None:
            made = getattr(getattr(Settings.model_validate({section: {key: values[section][key]}}), section), key)
            assert made == (default.absolute() if isinstance(default, Path) else default), (section, key)
            assert type(made) is type(default) or isinstance(default, Path | int | float), (section, key)


def test_its_examples_are_valid(tmp_path: Path) -> None:
    _, examples = explained()
    for (section, _), line in examples.items():
        file = tmp_path / "edge.toml"
        file.write_text(f"[{section}]\n{line}\n", "utf-8")
        assert config.load(file, environ={}) != DEFAULTS


def test_every_setting_has_words_above_it() -> None:
    lines = FILE.read_text("utf-8").splitlines()
    for number, line in enumerate(lines):
        if (_DEFAULT.fullmatch(line) or _EXAMPLE.fullmatch(line)) and not _EXAMPLE.fullmatch(lines[number - 1]):
            assert lines[number - 1].startswith("# "), line
    assert max(map(len, lines)) <= 120


def test_bounds_stand_in_the_words() -> None:
    """A bound that changes in the code changes in the explanation."""
    text = FILE.read_text("utf-8")
    for section, key in known():
        field = type(getattr(DEFAULTS, section)).model_fields[key]
        above = text[: text.index(f"{key} = ", text.index(f"\n[{section}]\n"))].rsplit("\n\n", 1)[-1]
        bounds = {name: getattr(m, name) for m in field.metadata for name in ("ge", "le") if hasattr(m, name)}
        if {"ge", "le"} <= set(bounds) and bounds["le"] != 65535 and key != "fold_minutes":
            assert f"{bounds['ge']} to {bounds['le']}" in above, (section, key)


# --- precedence -----------------------------------------------------------------------------------------------------


def test_the_environment_wins_over_credentials_over_the_file_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('[broker]\npassword = "file"\n[web]\nport = 1111\n[search]\nlimit_max = 7\n', "utf-8")
    secrets = tmp_path / "credentials"
    secrets.mkdir()
    (secrets / "broker-password").write_text("credential\n", "utf-8")
    environ = {"CREDENTIALS_DIRECTORY": str(secrets), "EDGE__WEB__PORT": "2222"}
    loaded = config.load(file, environ=environ)
    assert loaded.broker.password.get_secret_value() == "credential"
    assert (loaded.web.port, loaded.search.limit_max, loaded.web.host) == (2222, 7, "127.0.0.1")
    again = config.load(file, environ={**environ, "EDGE__BROKER__PASSWORD": "environment"})
    assert again.broker.password.get_secret_value() == "environment"


@pytest.mark.parametrize("name", CREDENTIALS)
def test_each_credential_file_fills_its_setting(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("of the file\n", "utf-8")
    loaded = config.load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    section, key = CREDENTIALS[name]
    assert getattr(getattr(loaded, section), key).get_secret_value() == "of the file"
    assert "of the file" not in repr(loaded)


def test_the_file_is_the_one_given_else_the_one_in_the_environment(tmp_path: Path) -> None:
    for name, port in (("given.toml", 1), ("named.toml", 2)):
        (tmp_path / name).write_text(f"[web]\nport = {port}\n", "utf-8")
    environ = {"EDGE_CONFIG": str(tmp_path / "named.toml")}
    assert config.load(environ=environ).web.port == 2
    assert config.load(tmp_path / "given.toml", environ=environ).web.port == 1
    assert config.load(environ={}).web.port == 8080


def test_other_variables_are_not_settings() -> None:
    assert config.load(environ={"EDGE_TEST_QDRANT_URL": "x", "PATH": "/bin"}) == DEFAULTS


# --- sentences ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[web]\nprot = 1", "The setting [web] prot ({file}) is unknown. Did you mean port?"),
        ("[web]\nzzz = 1", "The setting [web] zzz ({file}) is unknown. Known there: host, port,"),
        ("[wep]\nport = 1", "The setting [wep] ({file}) is unknown. Did you mean [web]?"),
        (
            "[web]\nport = 70000",
            "The setting [web] port ({file}) is wrong: input should be less than or equal to 65535.",
        ),
        ('[web]\nport = "x"', "The setting [web] port ({file}) is wrong: input should be a valid integer"),
        ('[broker]\nurl = "tcp://x"', "The setting [broker] url ({file}) is wrong: it must start with mqtt://"),
        ('[vectors]\nurl = "qdrant"', "The setting [vectors] url ({file}) is wrong: it must start with http://"),
        ('[intake]\nroot = "a/b"', "The setting [intake] root ({file}) is wrong: string should match pattern"),
        ('[log]\nlevel = "loud"', "The setting [log] level ({file}) is wrong: input should be 'debug', 'info'"),
        ("web = 5", "The setting [web]"),
        ("[web", "The settings file {file} is not valid TOML:"),
        ("[web]\nport = 1\nport = 2", "The settings file {file} is not valid TOML:"),
    ],
)
def test_a_mistake_in_the_file_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(Stop) as caught:
        config.load(file, environ={})
    said = str(caught.value)
    assert said.startswith(sentence.format(file=file))
    assert said.endswith((".", "?"))
    assert "\n" not in said


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("EDGE__WEB__PROT", "1", "The setting [web] prot (environment variable EDGE__WEB__PROT) is unknown."),
        ("EDGE__WEB__PORT", "x", "The setting [web] port (environment variable EDGE__WEB__PORT) is wrong:"),
        ("EDGE__WEB", "1", "The environment variable EDGE__WEB is not of the form EDGE__SECTION__KEY."),
        ("EDGE__WEB__PORT__X", "1", "The environment variable EDGE__WEB__PORT__X is not of the form"),
        ("EDGE____PORT", "1", "The environment variable EDGE____PORT is not of the form"),
        ("EDGE__DATABASE__TIMEOUT", "0", "The setting [database] timeout (environment variable"),
    ],
)
def test_a_mistake_in_the_environment_names_the_variable(name: str, value: str, sentence: str) -> None:
    with pytest.raises(Stop) as caught:
        config.load(environ={name: value})
    assert str(caught.value).startswith(sentence)


def test_a_section_that_is_a_value_is_said_so(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text("web = 5\n", "utf-8")
    with pytest.raises(Stop, match=r"\[web\] in .* must be a section, not a value"):
        config.load(file, environ={"EDGE__WEB__PORT": "1"})


def test_a_file_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="cannot be read: No such file"):
        config.load(tmp_path / "missing.toml", environ={})
    with pytest.raises(Stop, match="cannot be read"):
        config.load(environ={"EDGE_CONFIG": str(tmp_path / "missing.toml")})
    with pytest.raises(Stop, match="cannot be read: Is a directory"):
        config.load(tmp_path, environ={})


def test_an_unreadable_credential_is_loud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "database-dsn").write_text("x", "utf-8")

    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(Stop, match=r"The credential file .*database-dsn cannot be read: Permission denied"):
        config.load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_a_secret_never_shows_itself(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text('[database]\ndsn = "postgresql://edge:hush@db/edge"\n', "utf-8")
    loaded = config.load(file, environ={})
    assert "hush" not in repr(loaded) + str(loaded) + loaded.model_dump_json()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DEFAULTS.web.port = 1
    for section in Settings.model_fields:
        part = getattr(DEFAULTS, section)
        assert isinstance(part, BaseModel)
        assert part.model_config["frozen"]
        assert part.model_config["extra"] == "forbid"
