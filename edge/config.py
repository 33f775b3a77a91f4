"""One frozen settings object. `etc/edge.toml` explains every setting.

Order of precedence, last wins: default, TOML file, credential files, environment variables `EDGE__SECTION__KEY`.
Nothing else in the package reads the environment.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator

from edge.errors import Stop

PREFIX = "EDGE__"

#: Names a systemd credential or a compose secret may carry, and the setting each one fills.
CREDENTIALS = {
    "database-dsn": ("database", "dsn"),
    "broker-password": ("broker", "password"),
    "vectors-api-key": ("vectors", "api_key"),
}


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Data(Section):
    dir: Path = Path("data")

    @field_validator("dir")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()


class Plant(Section):
    file: Path | None = None
    sample: bool = False


class Database(Section):
    dsn: SecretStr = SecretStr("")
    pool_size: Annotated[int, Field(ge=2, le=100)] = 8
    timeout: Seconds = 10


class Broker(Section):
    url: str = ""
    port: Port = 0
    username: str = ""
    password: SecretStr = SecretStr("")
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if value and not value.startswith(("mqtt://", "mqtts://")):
            raise ValueError("it must start with mqtt:// or mqtts://")
        return value


class Vectors(Section):
    url: str = ""
    api_key: SecretStr = SecretStr("")
    grpc: bool = True
    timeout: Seconds = 10
    quantize_above: Annotated[int, Field(ge=0)] = 20_000
    optimize_hour: Annotated[int, Field(ge=0, le=23)] = 4

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://", "unix:")):
            raise ValueError("it must start with http://, https:// or unix:")
        return value


class EncoderSection(Section):
    model: str = "starter"
    models_dir: Path | None = None
    provider: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    threads: Annotated[int, Field(ge=1, le=64)] = 1
    parallel: Annotated[int, Field(ge=1, le=16)] = 2
    cache_texts: Annotated[int, Field(ge=0, le=1_000_000)] = 4_096
    gpu_memory_mb: Annotated[int, Field(ge=256, le=1_048_576)] = 2_048


class Intake(Section):
    root: Annotated[str, Field(pattern=r"^[^/+#\s]+$")] = "andon"
    client_id: Annotated[str, Field(min_length=1, max_length=23)] = "edge-ingest"
    receive_maximum: Annotated[int, Field(ge=1, le=65_535)] = 500
    max_payload_bytes: Annotated[int, Field(ge=1_024, le=16_777_216)] = 262_144
    shared_group: Annotated[str, Field(pattern=r"^[^/+#\s]*$")] = ""
    max_depth: Annotated[int, Field(ge=4, le=200)] = 32
    max_digits: Annotated[int, Field(ge=17, le=1_000)] = 40
    max_key_length: Annotated[int, Field(ge=16, le=10_000)] = 200
    max_items: Annotated[int, Field(ge=16, le=1_000_000)] = 10_000
    earliest_year: Annotated[int, Field(ge=2000, le=2100)] = 2000
    ahead_hours: Annotated[int, Field(ge=1, le=8_760)] = 24
    frigate_prefix: Annotated[str, Field(pattern=r"^([^+#\s,]*[^+#\s,/](,[^+#\s,]*[^+#\s,/])*)?$")] = ""
    frigate_cameras: dict[str, str] = {}
    frigate_timeout_minutes: Annotated[int, Field(ge=5, le=10_080)] = 60

    @field_validator("frigate_cameras", mode="before")
    @classmethod
    def _pairs(cls, value: Any) -> Any:
        # An environment variable holds one line of text.
        if not isinstance(value, str):
            return value
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        if not all(name.strip() and ours.strip() for name, _, ours in pairs):
            raise ValueError("as text it must be of the form front_door=cam-1,back_door=cam-2")
        return {name.strip(): ours.strip() for name, _, ours in pairs}

    @property
    def frigate_prefixes(self) -> tuple[str, ...]:
        return tuple(self.frigate_prefix.split(",")) if self.frigate_prefix else ()


class Analytics(Section):
    detectors: Path | None = None
    fold_minutes: Annotated[int, Field(ge=0, le=1_440)] = 15
    late_minutes: Annotated[int, Field(ge=1, le=43_200)] = 10
    chatter_alarms: Annotated[int, Field(ge=0, le=100)] = 10
    chatter_seconds: Seconds = 60
    shift_starts: Annotated[tuple[time, ...], Field(min_length=1, max_length=24)] = (time(6), time(14), time(22))
    gap_minutes: Annotated[int, Field(ge=1, le=720)] = 30
    acknowledge_minutes: Annotated[int, Field(ge=0, le=10_080)] = 5
    escalate_minutes: Annotated[int, Field(ge=0, le=10_080)] = 15

    @field_validator("shift_starts", mode="before")
    @classmethod
    def _times(cls, value: Any) -> Any:
        # An environment variable holds one line of text.
        return [part.strip() for part in value.split(",")] if isinstance(value, str) else value

    @field_validator("shift_starts")
    @classmethod
    def _ascending(cls, value: tuple[time, ...]) -> tuple[time, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError("the shifts must start one after the other, as in 06:00,14:00,22:00")
        return value


class Search(Section):
    limit_max: Annotated[int, Field(ge=1, le=1_000)] = 100
    matches_per_case: Annotated[int, Field(ge=1, le=20)] = 5
    return_days: Annotated[int, Field(ge=1, le=365)] = 30


class Knowledge(Section):
    max_mb: Annotated[int, Field(ge=1, le=50)] = 10
    max_pages: Annotated[int, Field(ge=1, le=10_000)] = 1_000


class Web(Section):
    host: str = "127.0.0.1"
    port: Port = 8080
    public_url: str = ""
    language: Literal["th", "en"] = "th"
    session_idle_minutes: Annotated[int, Field(ge=5, le=1_440)] = 480
    session_hours: Annotated[int, Field(ge=1, le=720)] = 72
    open_board: bool = False
    api_calls_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 1_200
    api_refusals_per_minute: Annotated[int, Field(ge=1, le=1_000_000)] = 60


class Simulator(Section):
    enabled: bool = False
    speed: Annotated[float, Field(gt=0, le=1_000)] = 1.0


class Snapshot(Section):
    dir: Path | None = None
    keep: Annotated[int, Field(ge=1, le=365)] = 7
    hour: Annotated[int, Field(ge=0, le=23)] = 2


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class Settings(Section):
    data: Data = Data()
    plant: Plant = Plant()
    database: Database = Database()
    broker: Broker = Broker()
    vectors: Vectors = Vectors()
    encoder: EncoderSection = EncoderSection()
    intake: Intake = Intake()
    analytics: Analytics = Analytics()
    search: Search = Search()
    knowledge: Knowledge = Knowledge()
    web: Web = Web()
    simulator: Simulator = Simulator()
    snapshot: Snapshot = Snapshot()
    log: Log = Log()

    def with_dsn(self, dsn: str) -> Settings:
        """The same settings with another database, such as the embedded one that was just started."""
        return self.model_copy(update={"database": self.database.model_copy(update={"dsn": SecretStr(dsn)})})

    @property
    def run_dir(self) -> Path:
        """Where a running appliance keeps its lock, ports, sockets and local token."""
        return self.data.dir / "run"

    @property
    def snapshot_dir(self) -> Path:
        return self.snapshot.dir or self.data.dir / "snapshots"


def resources() -> Path:
    """The folder that holds `web/`, `etc/` and `models/starter/`: inside an installed wheel, or the checkout."""
    bundled = Path(__file__).parent / "_bundled"
    return bundled if bundled.is_dir() else Path(__file__).parent.parent


def words_file(settings: Settings) -> Path:
    """Where the plant's own words are kept, see `edge model teach`: with its data, not with the program."""
    return settings.data.dir / "words.csv"


def model_folders(settings: Settings) -> tuple[Path, Path | None]:
    """Where models lie, and where the starter is built: with the data, when its own folder belongs to a package.

    So it is, too, when the plant has taught words: a checkout may serve several plants.
    """
    folder = settings.encoder.models_dir or resources() / "models"
    own = folder.parent.name == "_bundled" or words_file(settings).is_file()
    return folder, settings.data.dir / "models" / "starter" if own else None


def load(file: Path | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings.

    `file`: the TOML file; otherwise `EDGE_CONFIG` names one, otherwise `/etc/andon-edge/edge.toml` if it exists.
    Raises `Stop` with one sentence for an unknown key, a wrong value or an unreadable file.
    """
    env = os.environ if environ is None else environ
    named = file or (Path(env["EDGE_CONFIG"]) if env.get("EDGE_CONFIG") else None)
    path = named or Path("/etc/andon-edge/edge.toml")
    values: dict[str, Any] = {}
    if named or path.exists():
        try:
            values = tomllib.loads(path.read_text("utf-8"))
        except OSError as error:
            raise Stop(f"The settings file {path} cannot be read: {error.strerror}.") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Stop(f"The settings file {path} is not valid TOML: {error}.") from error
    origin = {(s, k): str(path) for s, keys in values.items() if isinstance(keys, dict) for k in keys}
    for section, key, value, where in (*_credentials(env), *_environment(env)):
        part = values.setdefault(section, {})
        if not isinstance(part, dict):
            raise Stop(f"The setting [{section}] in {path} must be a section, not a value.")
        part[key] = value
        origin[section, key] = where
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise Stop(_sentence(error, origin, str(path))) from error


def _environment(env: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    found = []
    for name, value in env.items():
        if name.startswith(PREFIX):
            parts = name[len(PREFIX) :].lower().split("__")
            if len(parts) != 2 or not all(parts):
                raise Stop(f"The environment variable {name} is not of the form EDGE__SECTION__KEY.")
            found.append((parts[0], parts[1], value, f"environment variable {name}"))
    return found


def _credentials(env: Mapping[str, str]) -> list[tuple[str, str, str, str]]:
    """Secrets by file: systemd puts them in $CREDENTIALS_DIRECTORY, compose in /run/secrets."""
    folder = Path(env.get("CREDENTIALS_DIRECTORY") or "/run/secrets")
    found = []
    for name, (section, key) in CREDENTIALS.items():
        path = folder / name
        try:
            if path.is_file():
                found.append((section, key, path.read_text("utf-8").strip(), f"credential file {path}"))
        except OSError as error:
            raise Stop(f"The credential file {path} cannot be read: {error.strerror}.") from error
    return found


def _sentence(error: ValidationError, origin: Mapping[tuple[str, str], str], path: str) -> str:
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    section, key = where[0], where[1] if len(where) > 1 else ""
    named = f"[{section}] {key}".strip()
    source = origin.get((section, key), path)
    if first["type"] == "extra_forbidden":
        if key:
            known = list(_section(section).model_fields)
            near = difflib.get_close_matches(key, known, 1)
            hint = f"Did you mean {near[0]}?" if near else f"Known there: {', '.join(known)}."
        else:
            near = difflib.get_close_matches(section, list(Settings.model_fields), 1)
            hint = f"Did you mean [{near[0]}]?" if near else f"Known sections: {', '.join(Settings.model_fields)}."
        return f"The setting {named} ({source}) is unknown. {hint}"
    reason = first["msg"].removeprefix("Value error, ")
    return f"The setting {named} ({source}) is wrong: {reason[0].lower()}{reason[1:]}."


def _section(name: str) -> type[BaseModel]:
    annotation = Settings.model_fields[name].annotation
    kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
    return next(kind for kind in kinds if issubclass(kind, BaseModel))
