-- name: etl_count
-- Source rows, by collection; of a span of time, or all.
SELECT i.collection, count(*) AS rows FROM indexable i
LEFT JOIN cases c ON c.id = i.entity_id
LEFT JOIN work_session s ON s.id = i.entity_id
LEFT JOIN worker_behavior b ON b.id = i.entity_id
WHERE (%(since)s::timestamptz IS NULL OR coalesce(c.occurred_at, s.started_at, b.week) >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR coalesce(c.occurred_at, s.started_at, b.week) < %(until)s)
GROUP BY i.collection ORDER BY i.collection;

-- name: etl_differing
-- Rows whose point is missing, of another version, or left over; `digest`: of the texts it was made from.
SELECT * FROM (
    SELECT i.collection, i.entity_id, p.texts_digest AS digest, false AS gone,
        coalesce(c.occurred_at, s.started_at, b.week) AS at
    FROM indexable i
    LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = i.collection AND p.entity_id = i.entity_id
    LEFT JOIN cases c ON c.id = i.entity_id
    LEFT JOIN work_session s ON s.id = i.entity_id
    LEFT JOIN worker_behavior b ON b.id = i.entity_id
    WHERE p.entity_id IS NULL OR p.version <> i.version
    UNION ALL
    SELECT p.collection, p.entity_id, p.texts_digest, true, NULL FROM point p
    WHERE p.fingerprint = %(fingerprint)s
      AND NOT EXISTS (SELECT 1 FROM indexable i WHERE i.collection = p.collection AND i.entity_id = p.entity_id)
) differing
WHERE (gone AND %(since)s::timestamptz IS NULL AND %(until)s::timestamptz IS NULL) OR (NOT gone
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s) AND (%(until)s::timestamptz IS NULL OR at < %(until)s))
ORDER BY collection, entity_id;

-- name: etl_queue
-- Once each, and at once: what waits for its next attempt is tried now.
WITH asked AS (
    SELECT * FROM unnest(%(collections)s::text[], %(ids)s::uuid[]) AS a (collection, entity_id)
), hurried AS (
    UPDATE outbox o SET due_at = clock_timestamp(), last_error = NULL FROM asked a
    WHERE o.collection = a.collection AND o.entity_id = a.entity_id AND o.done_at IS NULL AND o.last_error IS NOT NULL
), added AS (
    INSERT INTO outbox (collection, entity_id, operation)
    SELECT a.collection, a.entity_id, 'upsert' FROM asked a
    WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.collection = a.collection AND o.entity_id = a.entity_id
                      AND o.done_at IS NULL)
    RETURNING 1
)
SELECT count(*), pg_notify('edge_work', 'outbox') FROM added;

-- name: etl_left
-- How many of them still wait for the index; those it refused are not waited for.
SELECT count(*) FROM outbox o
JOIN unnest(%(collections)s::text[], %(ids)s::uuid[]) AS a (collection, entity_id)
  ON o.collection = a.collection AND o.entity_id = a.entity_id
WHERE o.done_at IS NULL AND o.last_error IS NULL;

-- name: etl_outcome
-- What became of them: the texts their points are made from now, whether row and point agree, and why not.
SELECT a.collection, a.entity_id, p.texts_digest AS digest, i.entity_id IS NULL AS gone,
    i.version IS NOT DISTINCT FROM p.version AS agrees,
    (SELECT o.last_error FROM outbox o WHERE o.collection = a.collection AND o.entity_id = a.entity_id
     AND o.done_at IS NULL AND o.last_error IS NOT NULL LIMIT 1) AS error
FROM unnest(%(collections)s::text[], %(ids)s::uuid[]) AS a (collection, entity_id)
LEFT JOIN indexable i ON i.collection = a.collection AND i.entity_id = a.entity_id
LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = a.collection AND p.entity_id = a.entity_id;

-- name: etl_account
-- Every source row of each collection: its point agrees, it waits, or the index refused it.
SELECT collection, count(*) FILTER (WHERE source) AS rows, count(*) FILTER (WHERE source AND agrees) AS points,
    count(*) FILTER (WHERE source AND NOT agrees AND NOT refused) AS pending,
    count(*) FILTER (WHERE source AND NOT agrees AND refused) AS failed,
    count(*) FILTER (WHERE NOT source) AS left_over
FROM (
    SELECT coalesce(i.collection, p.collection) AS collection, i.entity_id IS NOT NULL AS source,
        i.version IS NOT DISTINCT FROM p.version AS agrees,
        EXISTS (SELECT 1 FROM outbox o WHERE o.collection = coalesce(i.collection, p.collection)
                AND o.entity_id = coalesce(i.entity_id, p.entity_id) AND o.done_at IS NULL AND o.last_error IS NOT NULL)
            AS refused
    FROM indexable i
    FULL JOIN (SELECT collection, entity_id, version FROM point WHERE fingerprint = %(fingerprint)s) p
        ON p.collection = i.collection AND p.entity_id = i.entity_id
) each_row
GROUP BY collection ORDER BY collection;

-- name: behavior_weeks
-- Weeks of which sessions were made, changed or went since they were told of, with those that are asked for.
WITH now_there AS (
    SELECT worker_id, date_trunc('week', day)::date AS week, md5(string_agg(id || ':' || version, ',' ORDER BY id)) AS sources
    FROM work_session WHERE ended GROUP BY 1, 2
), compared AS (
    SELECT coalesce(n.week, b.week) AS week, n.sources IS DISTINCT FROM b.sources AS differs
    FROM now_there n FULL JOIN worker_behavior b ON b.worker_id = n.worker_id AND b.week = n.week
)
SELECT DISTINCT week FROM compared
WHERE CASE WHEN %(since)s::date IS NULL AND %(until)s::date IS NULL THEN differs
    ELSE (%(since)s::date IS NULL OR week + 7 > %(since)s::date) AND (%(until)s::date IS NULL OR week < %(until)s::date) END
ORDER BY week;

-- name: behavior_time
-- What each worker did in each zone in some weeks. `cuts`: quartiles of the seconds of finished cycles. `sources`: of the
-- sessions of the worker's whole week.
WITH sessions AS (
    SELECT *, date_trunc('week', day)::date AS week FROM work_session
    WHERE ended AND day >= %(since)s::date AND day < %(until)s::date
), told AS (
    SELECT worker_id, week, md5(string_agg(id || ':' || version, ',' ORDER BY id)) AS sources FROM sessions GROUP BY 1, 2
), zones AS (
    SELECT worker_id, week, zone_id, count(*) AS sessions, array_agg(DISTINCT day) AS days,
        sum(extract(epoch FROM ended_at - started_at))::float8 AS seconds, sum(active_seconds) AS active_seconds,
        sum(idle_seconds) AS idle_seconds
    FROM sessions GROUP BY 1, 2, 3
), pieces AS (
    SELECT s.worker_id, s.week, s.zone_id, count(*) AS cycles,
        percentile_cont(ARRAY[0.25, 0.5, 0.75]) WITHIN GROUP (ORDER BY c.seconds) AS cuts
    FROM sessions s JOIN work_cycle c ON c.session_id = s.id WHERE c.index_number IS NOT NULL GROUP BY 1, 2, 3
)
SELECT z.*, coalesce(p.cycles, 0) AS cycles, p.cuts, t.sources
FROM zones z JOIN told t USING (worker_id, week) LEFT JOIN pieces p USING (worker_id, week, zone_id)
ORDER BY worker_id, week, seconds DESC, zone_id;

-- name: behavior_hours
-- Active and idle seconds by hour of the day in plant time, of one week.
SELECT s.worker_id, extract(hour FROM t.hour AT TIME ZONE %(timezone)s)::int AS hour,
    sum(t.active_seconds) AS active_seconds, sum(t.idle_seconds) AS idle_seconds
FROM work_session s JOIN time_log t ON t.session_id = s.id
WHERE s.ended AND date_trunc('week', s.day)::date = %(week)s GROUP BY 1, 2 ORDER BY 1, 2;

-- name: behavior_known
SELECT id, worker_id, checksum, sources FROM worker_behavior WHERE week = %(week)s;

-- name: behavior_put
INSERT INTO worker_behavior (id, worker_id, week, zone_id, metrics, strengths, points, sources, checksum)
VALUES (%(id)s, %(worker_id)s, %(week)s, %(zone_id)s, %(metrics)s, %(strengths)s, %(points)s, %(sources)s, %(checksum)s)
ON CONFLICT (id) DO UPDATE
SET zone_id = excluded.zone_id, metrics = excluded.metrics, strengths = excluded.strengths, points = excluded.points,
    sources = excluded.sources, checksum = excluded.checksum, version = worker_behavior.version + 1,
    updated_at = clock_timestamp();

-- name: behavior_sources
-- Other sessions, told the same: nothing to embed.
UPDATE worker_behavior SET sources = %(sources)s WHERE id = %(id)s;

-- name: behavior_drop
DELETE FROM worker_behavior WHERE id = ANY(%(ids)s);

-- name: behavior_by_ids
SELECT b.id, b.version, z.site_id, b.worker_id, b.week, b.zone_id, z.name_th, z.name_en, w.skill, b.metrics, b.strengths,
    b.points
FROM worker_behavior b JOIN zone z ON z.id = b.zone_id LEFT JOIN worker w ON w.id = b.worker_id
WHERE b.id = ANY(%(ids)s);

-- name: behavior_of
-- Latest week first.
SELECT b.id, b.week, b.zone_id, b.metrics, b.strengths, b.points, w.skill
FROM worker_behavior b LEFT JOIN worker w ON w.id = b.worker_id
WHERE b.worker_id = %(worker_id)s ORDER BY b.week DESC LIMIT %(limit)s;

-- name: behavior_all_weeks
SELECT DISTINCT date_trunc('week', day)::date AS week FROM work_session WHERE ended;

-- name: behavior_lock
-- Two who tell of the same week would each see the rows of the other too late.
SELECT pg_advisory_xact_lock(7013442, 2);

-- name: one_moment
SET TRANSACTION ISOLATION LEVEL REPEATABLE READ;

-- name: behavior_points
SELECT entity_id, texts_digest AS digest FROM point
WHERE fingerprint = %(fingerprint)s AND collection = 'worker_behaviors';
