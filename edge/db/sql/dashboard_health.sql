-- name: health_alive
SELECT 1 AS one;

-- name: health_path
-- The path of an event in numbers, one row.
SELECT
    (SELECT count(*) FROM inbox WHERE received_at > clock_timestamp() - interval '1 minute') AS received_minute,
    (SELECT max(received_at) FROM inbox) AS received_last,
    (SELECT count(*) FROM inbox WHERE state = 'pending') AS inbox_pending,
    (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(received_at)), 0)::float8
        FROM inbox WHERE state = 'pending') AS inbox_oldest,
    (SELECT count(*) FROM quarantine) AS quarantined,
    (SELECT count(*) FROM quarantine WHERE at > clock_timestamp() - interval '1 day') AS quarantined_day,
    (SELECT count(*) FROM outbox WHERE created_at > clock_timestamp() - interval '1 minute') AS changed_minute,
    (SELECT count(*) FROM outbox WHERE done_at IS NULL) AS outbox_pending,
    (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8
        FROM outbox WHERE done_at IS NULL) AS outbox_oldest,
    (SELECT count(*) FROM outbox WHERE done_at IS NULL AND last_error IS NOT NULL) AS outbox_failing,
    (SELECT last_error FROM outbox WHERE done_at IS NULL AND last_error IS NOT NULL
        ORDER BY created_at LIMIT 1) AS outbox_error,
    (SELECT count(*) FROM point WHERE indexed_at > clock_timestamp() - interval '1 minute') AS indexed_minute,
    (SELECT count(*) FROM point) AS points,
    (SELECT count(*) FROM cases) AS cases,
    pg_database_size(current_database())::bigint AS database_bytes;

-- name: events_late
SELECT count(*) FROM event WHERE late AND occurred_at >= %(since)s;
