-- name: outbox_add
-- Written in the transaction that changes the row it speaks of; the notification wakes a waiting worker at COMMIT.
WITH added AS (
    INSERT INTO outbox (collection, entity_id, operation) VALUES (%(collection)s, %(entity_id)s, %(operation)s)
)
SELECT pg_notify('edge_work', 'outbox');

-- name: outbox_claim
-- Take a batch on lease: a worker that dies gives it back when the lease ends.
UPDATE outbox SET attempts = attempts + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s)
WHERE id IN (
    SELECT id FROM outbox WHERE done_at IS NULL AND due_at <= clock_timestamp()
    ORDER BY due_at, id LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, collection, entity_id, operation, attempts;

-- name: outbox_done
UPDATE outbox SET done_at = clock_timestamp(), last_error = NULL WHERE id = ANY(%(ids)s);

-- name: outbox_failed
-- Tried again later, at most an hour apart.
UPDATE outbox SET last_error = %(error)s,
    due_at = clock_timestamp() + make_interval(secs => least(3600, power(2, least(attempts, 11))))
WHERE id = ANY(%(ids)s);

-- name: outbox_purge
DELETE FROM outbox WHERE done_at < clock_timestamp() - make_interval(days => %(days)s);

-- name: outbox_pending
SELECT count(*) AS pending, coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds
FROM outbox WHERE done_at IS NULL;
