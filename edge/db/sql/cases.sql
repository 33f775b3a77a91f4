-- name: case_get
SELECT * FROM case_row WHERE record_id = %(record_id)s;

-- name: case_by_ids
SELECT * FROM case_row WHERE id = ANY(%(ids)s);

-- name: case_sample
-- Ids are drawn by chance, so those that follow any id are a sample, and an index finds them among a million.
(SELECT * FROM case_row WHERE id >= %(start)s ORDER BY id LIMIT %(limit)s)
UNION ALL
(SELECT * FROM case_row WHERE id < %(start)s ORDER BY id LIMIT %(limit)s)
LIMIT %(limit)s;

-- name: case_board
-- Live cases, newest activity first.
SELECT r.*, EXISTS (SELECT 1 FROM case_lookup l WHERE l.case_id = r.id) AS indexed, f.findings, f.seconds_lost,
    f.workers_affected, f.productivity_loss
FROM case_row r
CROSS JOIN LATERAL (
    SELECT count(*)::int AS findings, coalesce(sum(seconds_lost), 0)::float8 AS seconds_lost,
        coalesce(max(workers_affected), 0) AS workers_affected,
        coalesce(max(productivity_loss), 0)::float8 AS productivity_loss
    FROM finding WHERE case_id = r.id) f
WHERE r.status <> 'closed' AND (%(zone_ids)s::text[] = '{}' OR r.zone_id = ANY(%(zone_ids)s))
ORDER BY r.last_seen_at DESC, r.id
LIMIT %(limit)s;

-- name: case_matches
SELECT m.case_id AS for_id, m.score AS match_score, r.*
FROM case_match m JOIN case_row r ON r.id = m.match_id
WHERE m.case_id = ANY(%(ids)s)
ORDER BY m.case_id, m.rank;

-- name: case_revision
-- Changes whenever the live board would look different.
SELECT concat_ws('-',
    (SELECT count(*) FROM cases WHERE status <> 'closed'),
    (SELECT extract(epoch FROM max(updated_at)) FROM cases),
    (SELECT extract(epoch FROM max(looked_at)) FROM case_lookup));

-- name: case_history
-- Closed cases, latest first, a page at a time by (occurred_at, id) so that nothing repeats or is skipped.
SELECT * FROM case_row
WHERE status = 'closed'
  AND (%(kinds)s::text[] = '{}' OR kind = ANY(%(kinds)s))
  AND (%(severities)s::text[] = '{}' OR severity = ANY(%(severities)s))
  AND (%(languages)s::text[] = '{}' OR language = ANY(%(languages)s))
  AND (%(outcomes)s::text[] = '{}' OR outcome = ANY(%(outcomes)s))
  AND (%(zone_ids)s::text[] = '{}' OR zone_id = ANY(%(zone_ids)s))
  AND (%(since)s::timestamptz IS NULL OR occurred_at >= %(since)s)
  AND (%(until)s::timestamptz IS NULL OR occurred_at < %(until)s)
  AND (%(before_at)s::timestamptz IS NULL OR (occurred_at, id) < (%(before_at)s, %(before_id)s::uuid))
ORDER BY occurred_at DESC, id DESC
LIMIT %(limit)s;

-- name: case_log
SELECT at, actor, action, details FROM case_log WHERE case_id = %(id)s ORDER BY id;

-- name: case_log_add
INSERT INTO case_log (case_id, actor, action, details) VALUES (%(id)s, %(actor)s, %(action)s, %(details)s);

-- name: case_evidence
SELECT e.inbox_id, e.class, e.kind, e.source, e.event_id, e.occurred_at, e.body, e.late
FROM case_event ce JOIN event e USING (inbox_id)
WHERE ce.case_id = %(id)s ORDER BY e.occurred_at DESC, e.inbox_id DESC LIMIT %(limit)s;

-- name: case_counts
SELECT
    (SELECT count(*) FROM cases WHERE status = 'open') AS open,
    (SELECT count(*) FROM cases WHERE status = 'acknowledged') AS acknowledged,
    (SELECT count(*) FROM cases WHERE status = 'closed') AS closed,
    (SELECT count(*) FROM quarantine) AS quarantined,
    (SELECT count(*) FROM inbox WHERE state = 'pending') AS inbox_pending,
    (SELECT count(*) FROM outbox WHERE done_at IS NULL) AS outbox_pending,
    (SELECT count(*) FROM point WHERE fingerprint = (SELECT fingerprint FROM index_version WHERE state = 'serving'))
        AS indexed;

-- name: case_fold_lock
-- Two workers that see the same alarm at once must not open two cases for it.
SELECT pg_advisory_xact_lock(hashtextextended(%(key)s, 7013442025));

-- name: case_fold_find
-- The cases that an alarm of one kind in one place would fold into between two times, live ones first and the earliest
-- of them. A closed one counts where the alarm came before it was closed: the event is late. A person's words fold only
-- when equal.
-- `touched`: a person has done something about it.
SELECT c.id, c.record_id, c.kind, c.status, c.severity, c.occurred_at, c.last_seen_at, c.tags,
       c.status <> 'open' OR EXISTS (SELECT 1 FROM case_log l WHERE l.case_id = c.id AND l.actor <> 'appliance')
           OR EXISTS (SELECT 1 FROM feedback f WHERE c.id IN (f.case_id, f.for_case_id)) AS touched
FROM cases c
WHERE c.type = %(type)s AND c.zone_id IS NOT DISTINCT FROM %(zone_id)s
  AND (c.status <> 'closed' OR (c.closed_at >= %(since)s AND c.origin <> 'import'))
  AND (NOT %(exact)s OR c.description = %(description)s)
  AND c.last_seen_at >= %(since)s::timestamptz - make_interval(mins => %(minutes)s)
  AND c.occurred_at <= %(until)s::timestamptz + make_interval(mins => %(minutes)s)
ORDER BY c.status = 'closed', touched DESC, c.occurred_at, c.id LIMIT 20 FOR UPDATE OF c;

-- name: case_first
-- What the earliest event behind a case is called; ties go by name, so that the order of arrival does not matter.
SELECT e.source, e.event_id FROM case_event ce JOIN event e USING (inbox_id)
WHERE ce.case_id = %(id)s ORDER BY e.occurred_at, e.source, e.event_id LIMIT 1;

-- name: event_name
SELECT source, event_id FROM event WHERE inbox_id = %(inbox_id)s;

-- name: case_fold
-- One more alarm. What the index shows is touched only where it changes.
UPDATE cases SET occurrences = occurrences + 1, last_seen_at = greatest(last_seen_at, %(occurred_at)s),
    occurred_at = CASE WHEN %(late)s THEN occurred_at ELSE least(occurred_at, %(occurred_at)s) END,
    severity = %(severity)s, kind = %(kind)s, updated_at = clock_timestamp(),
    tags = ARRAY(SELECT DISTINCT unnest(tags || %(tags)s::text[]) ORDER BY 1)
WHERE id = %(id)s
RETURNING kind, severity, occurred_at, tags;

-- name: case_fold_more
-- Several more alarms that change nothing but how many there were, and when the last.
UPDATE cases SET occurrences = occurrences + %(count)s, last_seen_at = greatest(last_seen_at, %(last)s),
    updated_at = clock_timestamp()
WHERE id = %(id)s;

-- name: case_fold_first
-- The event is the earliest of its case: the case speaks of it.
UPDATE cases SET description = %(description)s, language = %(language)s, camera_id = %(camera_id)s,
    worker_id = %(worker_id)s
WHERE id = %(id)s;

-- name: case_bump
UPDATE cases SET version = version + 1 WHERE id = %(id)s;

-- name: case_merge
-- Two cases turn out to be one: everything of the other goes over, and the other goes.
WITH other AS (
    SELECT * FROM cases WHERE id = %(other)s
), moved AS (
    INSERT INTO case_event (case_id, inbox_id)
    SELECT %(id)s, ce.inbox_id FROM case_event ce WHERE ce.case_id = %(other)s ON CONFLICT DO NOTHING
), found AS (
    UPDATE finding SET case_id = %(id)s WHERE case_id = %(other)s
), back AS (
    UPDATE cases SET recurred_case = %(id)s WHERE recurred_case = %(other)s AND id <> %(id)s
)
UPDATE cases c SET occurrences = c.occurrences + o.occurrences, last_seen_at = greatest(c.last_seen_at, o.last_seen_at),
    occurred_at = least(c.occurred_at, o.occurred_at),
    severity = %(severity)s, kind = %(kind)s,
    tags = ARRAY(SELECT DISTINCT unnest(c.tags || o.tags) ORDER BY 1), updated_at = clock_timestamp(),
    chatter_source = CASE WHEN c.chatter_at IS NULL OR o.chatter_at > c.chatter_at
                               OR (o.chatter_at = c.chatter_at AND o.chatter_source < c.chatter_source)
                          THEN o.chatter_source ELSE c.chatter_source END,
    chatter_at = greatest(c.chatter_at, o.chatter_at)
FROM other o WHERE c.id = %(id)s
RETURNING c.kind, c.severity, c.occurred_at, c.tags;

-- name: case_drop
DELETE FROM cases WHERE id = %(id)s;

-- name: case_alarms_near
-- When the alarms of an event's source in one case came: the nearest ones before and after it, itself among them.
-- Whether an event is the case's is asked row by row: as a join the planner would begin at the case, which it takes for a
-- small one in the middle of a storm, and read all its alarms for each.
WITH own AS (SELECT source, occurred_at, inbox_id FROM event WHERE inbox_id = %(inbox_id)s)
SELECT near.source, near.at FROM own CROSS JOIN LATERAL (
    (SELECT e.source, e.occurred_at AS at FROM event e
     WHERE (SELECT true FROM case_event ce WHERE ce.case_id = %(id)s AND ce.inbox_id = e.inbox_id)
       AND e.source = own.source AND e.occurred_at <= own.occurred_at
       AND (e.occurred_at, e.inbox_id) <= (own.occurred_at, own.inbox_id)
       AND e.occurred_at >= own.occurred_at - make_interval(secs => %(seconds)s)
     ORDER BY e.occurred_at DESC, e.inbox_id DESC LIMIT %(count)s)
    UNION ALL
    (SELECT e.source, e.occurred_at FROM event e
     WHERE (SELECT true FROM case_event ce WHERE ce.case_id = %(id)s AND ce.inbox_id = e.inbox_id)
       AND e.source = own.source AND e.occurred_at >= own.occurred_at
       AND (e.occurred_at, e.inbox_id) > (own.occurred_at, own.inbox_id)
       AND e.occurred_at <= own.occurred_at + make_interval(secs => %(seconds)s)
     ORDER BY e.occurred_at, e.inbox_id LIMIT %(count)s)) near
ORDER BY near.at;

-- name: case_chatter
-- The latest burst counts; of two that end together, the source that comes first by name.
UPDATE cases SET chatter_source = %(source)s, chatter_at = %(at)s, updated_at = clock_timestamp()
WHERE id = %(id)s AND (chatter_at IS NULL OR chatter_at < %(at)s OR (chatter_at = %(at)s AND chatter_source > %(source)s));

-- name: chatterers
-- Sources that chattered since a time, and the live case that says so.
SELECT chatter_source AS source, max(chatter_at) AS at, count(*)::int AS cases, max(record_id) AS record_id
FROM cases WHERE chatter_source IS NOT NULL AND chatter_at >= %(since)s
GROUP BY chatter_source ORDER BY max(chatter_at) DESC LIMIT 20;

-- name: case_event_add
INSERT INTO case_event (case_id, inbox_id) VALUES (%(case_id)s, %(inbox_id)s) ON CONFLICT DO NOTHING;

-- name: case_open
INSERT INTO cases (site_id, record_id, kind, status, type, severity, origin, description, language, zone_id, camera_id,
    worker_id, tags, occurred_at, last_seen_at)
VALUES ((SELECT id FROM site ORDER BY id LIMIT 1), 'C-' || lpad(nextval('case_number')::text, 6, '0'), %(kind)s, 'open',
    %(type)s, %(severity)s, %(origin)s, %(description)s, %(language)s, %(zone_id)s, %(camera_id)s, %(worker_id)s,
    %(tags)s, %(occurred_at)s, %(occurred_at)s)
RETURNING id, record_id;

-- name: case_acknowledge
UPDATE cases SET status = 'acknowledged', acknowledged_at = clock_timestamp(), acknowledged_by = %(actor)s,
    version = version + 1, updated_at = clock_timestamp()
WHERE id = %(id)s AND status = 'open';

-- name: case_close
-- Whether the fix held is watched from here on, unless a person knows already.
UPDATE cases SET status = 'closed', closed_at = clock_timestamp(), closed_by = %(actor)s, root_cause = %(root_cause)s,
    resolution = %(resolution)s, outcome = %(outcome)s, version = version + 1, updated_at = clock_timestamp(),
    outcome_by = CASE WHEN %(outcome)s <> 'unknown' THEN %(actor)s END,
    outcome_at = CASE WHEN %(outcome)s <> 'unknown' THEN clock_timestamp() END, recurred_case = NULL,
    minutes_to_restore = least(5256000, greatest(0, extract(epoch FROM clock_timestamp() - occurred_at) / 60)::integer)
WHERE id = %(id)s AND status <> 'closed';

-- name: case_reopen
UPDATE cases SET status = 'open', closed_at = NULL, closed_by = NULL, acknowledged_at = NULL, acknowledged_by = NULL,
    minutes_to_restore = NULL, last_seen_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp(),
    outcome = CASE WHEN outcome_by = 'appliance' THEN 'unknown' ELSE outcome END, outcome_by = NULL, outcome_at = NULL,
    recurred_case = NULL, waiting_since = clock_timestamp(), overdue_at = NULL, escalated_at = NULL
WHERE id = %(id)s AND status = 'closed';

-- name: case_origins
SELECT record_id, origin FROM cases WHERE record_id = ANY(%(record_ids)s);

-- name: case_import
-- A past case by its own id. Returns nothing when it stands there already in the same words. What a person has said here
-- about its fix stands above what the file says.
INSERT INTO cases (site_id, record_id, kind, status, type, severity, origin, description, language, root_cause,
    resolution, outcome, zone_id, camera_id, worker_id, tags, occurred_at, last_seen_at, closed_at, minutes_to_restore)
VALUES ((SELECT id FROM site ORDER BY id LIMIT 1), %(record_id)s, %(kind)s, 'closed', %(type)s, %(severity)s, 'import',
    %(description)s, %(language)s, %(root_cause)s, %(resolution)s, %(outcome)s, %(zone_id)s, %(camera_id)s,
    %(worker_id)s, %(tags)s, %(occurred_at)s, %(occurred_at)s, %(closed_at)s, %(minutes_to_restore)s)
ON CONFLICT (site_id, record_id) DO UPDATE
SET kind = excluded.kind, type = excluded.type, severity = excluded.severity, description = excluded.description,
    language = excluded.language, root_cause = excluded.root_cause, resolution = excluded.resolution,
    outcome = CASE WHEN cases.outcome_by IS NULL THEN excluded.outcome ELSE cases.outcome END,
    zone_id = excluded.zone_id, camera_id = excluded.camera_id,
    worker_id = excluded.worker_id, tags = excluded.tags, occurred_at = excluded.occurred_at,
    last_seen_at = excluded.last_seen_at, closed_at = excluded.closed_at,
    minutes_to_restore = excluded.minutes_to_restore, version = cases.version + 1, updated_at = clock_timestamp()
WHERE cases.origin = 'import' AND
    (cases.kind, cases.type, cases.severity, cases.description, cases.language, cases.root_cause, cases.resolution,
     cases.outcome, cases.zone_id, cases.camera_id, cases.worker_id, cases.tags, cases.occurred_at)
    IS DISTINCT FROM
    (excluded.kind, excluded.type, excluded.severity, excluded.description, excluded.language, excluded.root_cause,
     excluded.resolution, CASE WHEN cases.outcome_by IS NULL THEN excluded.outcome ELSE cases.outcome END,
     excluded.zone_id, excluded.camera_id, excluded.worker_id, excluded.tags,
     excluded.occurred_at)
RETURNING id, kind, version;
