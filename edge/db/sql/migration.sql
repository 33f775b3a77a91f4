-- name: migration_lock
-- One migration at a time, whoever starts it. Held until the transaction ends.
SELECT pg_advisory_xact_lock(7013442025);

-- name: migration_exists
SELECT to_regclass('migration')::text;

-- name: migration_table
CREATE TABLE IF NOT EXISTS migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- name: migration_applied
SELECT number, name, checksum FROM migration ORDER BY number;

-- name: migration_record
INSERT INTO migration (number, name, checksum) VALUES (%(number)s, %(name)s, %(checksum)s);
