-- name: quarantine_find
-- What could not be understood, latest first. Every condition may be left out; `text` is looked for in the bytes.
SELECT q.inbox_id, q.reason, q.at, i.topic, i.payload, i.door, i.received_at, i.content_type, i.properties,
       coalesce(i.source, regexp_replace(i.topic, '^.*/', '')) AS source, i.event_id
FROM quarantine q JOIN inbox i ON i.id = q.inbox_id
WHERE (%(before)s::bigint IS NULL OR q.inbox_id < %(before)s)
  AND (%(ids)s::bigint[] IS NULL OR q.inbox_id = ANY(%(ids)s))
  AND (%(source)s::text IS NULL OR coalesce(i.source, regexp_replace(i.topic, '^.*/', '')) = %(source)s)
  AND (%(topic)s::text IS NULL OR strpos(i.topic, %(topic)s) > 0)
  AND (%(reason)s::text IS NULL OR strpos(lower(q.reason), lower(%(reason)s)) > 0)
  AND (%(text)s::text IS NULL OR position(convert_to(%(text)s, 'UTF8') IN i.payload) > 0)
  AND (%(since)s::timestamptz IS NULL OR i.received_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR i.received_at < %(until)s)
ORDER BY q.inbox_id DESC LIMIT %(limit)s;

-- name: quarantine_release
-- Put some back for another try. Returns how many.
WITH freed AS (DELETE FROM quarantine WHERE inbox_id = ANY(%(ids)s) RETURNING inbox_id)
UPDATE inbox SET state = 'pending', settled_at = NULL WHERE id IN (SELECT inbox_id FROM freed);
