"""Opens and prepares the database. Loads no engine: every start waits for this."""

from __future__ import annotations

from edge.config import Settings, resources
from edge.db import Database, behind, migrate
from edge.errors import Stop
from edge.plant import load_plant, plant_file


def open_database(settings: Settings, *, name: str, migrated: bool = True) -> Database:
    """A pool that answers. Raises `Stop` when it does not, or when migrations are missing (unless `migrated` is off)."""
    database = Database(
        settings.database.dsn.get_secret_value(),
        size=settings.database.pool_size,
        timeout=settings.database.timeout,
        name=f"edge-{name}",
    ).wait()
    if migrated and (missing := behind(database)):
        database.close()
        raise Stop(f"The database lacks {len(missing)} migration(s), first {missing[0]}. Run `edge migrate`.")
    return database


def prepare(settings: Settings) -> list[str]:
    """Migrate, and load the plant the settings name; on a box without one the sample plant's zones stand in."""
    with open_database(settings, name="migrate", migrated=False) as database:
        applied = migrate(database)
        with database.transaction() as tx:
            known = tx.one("site_get") is not None
        file = plant_file(settings)
        if file is None and not known:
            file = resources() / "etc/sample/plant.toml"
        if file is not None:
            load_plant(database, file)
    return applied
