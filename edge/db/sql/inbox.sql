-- name: inbox_put
-- Events as they came, in one statement. A repeat of (source, event_id) is already safe: nothing is written, nothing
-- returned for it. What has no id is written every time.
INSERT INTO inbox (door, topic, content_type, properties, payload, source, event_id)
SELECT door, topic, content_type, properties::jsonb, payload, source, event_id
FROM unnest(%(door)s::text[], %(topic)s::text[], %(content_type)s::text[], %(properties)s::text[],
            %(payload)s::bytea[], %(source)s::text[], %(event_id)s::text[])
     WITH ORDINALITY AS arrived (door, topic, content_type, properties, payload, source, event_id, place)
ORDER BY place
ON CONFLICT (source, event_id) DO NOTHING
RETURNING source, event_id;

-- name: inbox_announce
SELECT pg_notify('edge_work', 'inbox');

-- name: inbox_claim
-- Pending events, oldest first; rows another worker holds are passed over.
SELECT id, topic, content_type, properties, payload, received_at FROM inbox
WHERE state = 'pending' ORDER BY id LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: inbox_settle
UPDATE inbox SET state = %(state)s, settled_at = clock_timestamp() WHERE id = %(id)s;

-- name: quarantine_put
INSERT INTO quarantine (inbox_id, reason) VALUES (%(inbox_id)s, %(reason)s);

-- name: event_put
INSERT INTO event (inbox_id, class, kind, source, event_id, sequence, occurred_at, zone_id, camera_id, worker_id, body,
    late)
SELECT i.id, %(event_class)s, %(kind)s, %(source)s, %(event_id)s, %(sequence)s, %(occurred_at)s, %(zone_id)s,
    %(camera_id)s, %(worker_id)s, %(body)s,
    i.received_at > %(occurred_at)s::timestamptz + make_interval(mins => %(late_minutes)s)
FROM inbox i WHERE i.id = %(inbox_id)s;

-- name: inbox_pending
SELECT count(*) AS pending, coalesce(extract(epoch FROM clock_timestamp() - min(received_at)), 0)::float8 AS oldest_seconds
FROM inbox WHERE state = 'pending';
