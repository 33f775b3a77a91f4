-- name: watch_take
-- One process watches at a time, as long as its transaction lasts; the others wait here. Returns who watched last,
-- and when standard work was changed last.
WITH held AS MATERIALIZED (SELECT pg_advisory_xact_lock(7013442026)),
put AS (
    INSERT INTO detector_owner (owner) SELECT %(owner)s FROM held
    ON CONFLICT (only_one) DO UPDATE SET owner = excluded.owner
    RETURNING 1
)
SELECT o.owner, o.clock,
    (SELECT max(greatest(created_at, coalesce(retired_at, created_at))) FROM standard_work) AS standards
FROM held LEFT JOIN detector_owner o ON true;

-- name: watch_clock
UPDATE detector_owner SET clock = greatest(clock, %(clock)s);

-- name: detector_state_get
SELECT state FROM detector_state WHERE detector = %(detector)s AND subject = %(subject)s;

-- name: detector_state_put
INSERT INTO detector_state (detector, subject, state) VALUES (%(detector)s, %(subject)s, %(state)s)
ON CONFLICT (detector, subject) DO UPDATE SET state = excluded.state;

-- name: detector_subjects
SELECT subject FROM detector_state WHERE detector = %(detector)s ORDER BY subject;

-- name: finding_put
INSERT INTO finding (case_id, detector, type, severity, at, reason_th, reason_en, zone_id, seconds_lost,
    workers_affected, productivity_loss)
VALUES (%(case_id)s, %(detector)s, %(type)s, %(severity)s, %(at)s, %(reason_th)s, %(reason_en)s, %(zone_id)s,
    %(seconds_lost)s, %(workers_affected)s, %(productivity_loss)s);

-- name: finding_of_case
-- Latest first.
SELECT detector, type, severity, at, reason_th, reason_en, seconds_lost, workers_affected, productivity_loss
FROM finding WHERE case_id = %(case_id)s ORDER BY at DESC, id DESC LIMIT %(limit)s;

-- name: impact_of_case
SELECT count(*) AS findings, coalesce(sum(seconds_lost), 0)::float8 AS seconds_lost,
    coalesce(max(workers_affected), 0) AS workers_affected, coalesce(max(productivity_loss), 0)::float8 AS productivity_loss
FROM finding WHERE case_id = %(case_id)s;

-- name: case_evidence_add
-- Evidence older than the retention of the inbox is no longer there to point to.
INSERT INTO case_event (case_id, inbox_id)
SELECT %(case_id)s, id FROM inbox WHERE id = ANY(%(inbox_ids)s)
ON CONFLICT DO NOTHING;

-- name: standards
SELECT id, zone_id, product_type, steps, origin, created_by, created_at FROM standard_work WHERE retired_at IS NULL
ORDER BY zone_id, product_type NULLS FIRST;

-- name: standard_put
-- The new version retires the one before.
WITH retired AS (
    UPDATE standard_work SET retired_at = clock_timestamp()
    WHERE zone_id = %(zone_id)s AND product_type IS NOT DISTINCT FROM %(product_type)s AND retired_at IS NULL
    RETURNING 1
)
INSERT INTO standard_work (zone_id, product_type, steps, origin, created_by)
SELECT %(zone_id)s, %(product_type)s, %(steps)s::jsonb, %(origin)s, %(actor)s FROM (SELECT count(*) FROM retired) done
RETURNING id;

-- name: standard_seed
-- From the plant's file, where nobody has written or recorded one: from then on engineers own it.
INSERT INTO standard_work (zone_id, product_type, steps, origin, created_by)
SELECT %(zone_id)s, %(product_type)s::text, %(steps)s::jsonb, 'plant', 'plant file'
WHERE NOT EXISTS (SELECT 1 FROM standard_work WHERE zone_id = %(zone_id)s
    AND product_type IS NOT DISTINCT FROM %(product_type)s);

-- name: session_ask
-- A little later, so that a busy station's events are taken together. The first asker sets the time.
INSERT INTO session_due (worker_id, shift, due_at)
VALUES (%(worker_id)s, %(shift)s, clock_timestamp() + make_interval(secs => %(seconds)s))
ON CONFLICT (worker_id, shift) DO UPDATE
SET asked = session_due.asked + 1, due_at = least(session_due.due_at, excluded.due_at);

-- name: session_claim
SELECT worker_id, shift, asked FROM session_due WHERE due_at <= clock_timestamp()
ORDER BY due_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED;

-- name: session_settled
-- Nothing more is to come, unless somebody asked meanwhile.
DELETE FROM session_due WHERE worker_id = %(worker_id)s AND shift = %(shift)s AND asked = %(asked)s;

-- name: session_later
UPDATE session_due SET due_at = %(due_at)s WHERE worker_id = %(worker_id)s AND shift = %(shift)s;

-- name: session_events
-- What one worker did, and the motion in the zones where that was.
WITH own AS (
    SELECT * FROM event WHERE worker_id = %(worker_id)s AND occurred_at >= %(since)s AND occurred_at < %(until)s
)
SELECT inbox_id, class, kind, source, event_id, occurred_at, zone_id, camera_id, worker_id, body FROM own
UNION ALL
SELECT inbox_id, class, kind, source, event_id, occurred_at, zone_id, camera_id, worker_id, body FROM event
WHERE class = 'camera' AND kind = 'motion' AND zone_id IN (SELECT DISTINCT zone_id FROM own)
  AND occurred_at >= (SELECT min(occurred_at) FROM own) - interval '1 hour'
  AND occurred_at <= (SELECT max(occurred_at) FROM own);

-- name: now
SELECT clock_timestamp();

-- name: session_known
SELECT id, position, checksum FROM work_session WHERE worker_id = %(worker_id)s AND shift = %(shift)s;

-- name: session_last_of
-- The last session of the shift before: does this one continue it?
SELECT zone_id, ended_at, end_seen FROM work_session
WHERE worker_id = %(worker_id)s AND shift < %(shift)s AND started_at >= %(shift)s::timestamptz - interval '1 day'
ORDER BY shift DESC, position DESC LIMIT 1;

-- name: session_put
INSERT INTO work_session (id, worker_id, zone_id, day, shift_number, shift, position, started_at, ended_at, ended,
    start_seen, end_seen, continued, product_type, active_seconds, idle_seconds, motion, cycles, cycle_seconds, checksum)
VALUES (%(id)s, %(worker_id)s, %(zone_id)s, %(day)s, %(shift_number)s, %(shift)s, %(position)s, %(started_at)s,
    %(ended_at)s, %(ended)s, %(start_seen)s, %(end_seen)s, %(continued)s, %(product_type)s, %(active_seconds)s,
    %(idle_seconds)s, %(motion)s, %(cycles)s, %(cycle_seconds)s, %(checksum)s)
ON CONFLICT (id) DO UPDATE
SET zone_id = excluded.zone_id, started_at = excluded.started_at, ended_at = excluded.ended_at, ended = excluded.ended,
    start_seen = excluded.start_seen, end_seen = excluded.end_seen, continued = excluded.continued,
    product_type = excluded.product_type, active_seconds = excluded.active_seconds,
    idle_seconds = excluded.idle_seconds, motion = excluded.motion, cycles = excluded.cycles,
    cycle_seconds = excluded.cycle_seconds, checksum = excluded.checksum, version = work_session.version + 1,
    updated_at = clock_timestamp();

-- name: sequence_by_ids
-- Sessions one can compare, with the names of their place and the skill of their worker.
SELECT s.id, s.version, z.site_id, s.zone_id, z.name_th, z.name_en, s.worker_id, w.skill, s.day, s.shift_number,
    s.started_at, s.ended_at, s.product_type, s.active_seconds, s.idle_seconds, s.cycles, s.cycle_seconds
FROM work_session s JOIN zone z ON z.id = s.zone_id LEFT JOIN worker w ON w.id = s.worker_id
WHERE s.id = ANY(%(ids)s) AND s.ended AND s.cycles > 0;

-- name: cycles_of
-- Cycles that were finished.
SELECT session_id, seconds, steps FROM work_cycle WHERE session_id = ANY(%(ids)s) AND index_number IS NOT NULL
ORDER BY session_id, position;

-- name: session_clear
DELETE FROM work_cycle WHERE session_id = %(id)s;

-- name: session_clear_hours
DELETE FROM time_log WHERE session_id = %(id)s;

-- name: work_session_drop
DELETE FROM work_session WHERE id = ANY(%(ids)s);

-- name: cycle_put
INSERT INTO work_cycle (session_id, position, index_number, started_at, ended_at, seconds, steps)
VALUES (%(session_id)s, %(position)s, %(index_number)s, %(started_at)s, %(ended_at)s, %(seconds)s, %(steps)s::jsonb);

-- name: time_log_put
INSERT INTO time_log (session_id, hour, active_seconds, idle_seconds, cycles, motion)
VALUES (%(session_id)s, %(hour)s, %(active_seconds)s, %(idle_seconds)s, %(cycles)s, %(motion)s);

-- name: events_between
-- For detectors that look again at the past, in order of time.
SELECT inbox_id, class, kind, source, event_id, occurred_at, zone_id, camera_id, worker_id, body FROM event
WHERE (occurred_at, inbox_id) > (%(after_at)s, %(after_id)s) AND occurred_at < %(until)s
ORDER BY occurred_at, inbox_id LIMIT %(limit)s;
