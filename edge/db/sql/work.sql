-- name: work_sessions
-- Latest first; every filter may be left out.
SELECT s.id, s.worker_id, s.zone_id, s.day, s.shift_number, s.started_at, s.ended_at, s.ended, s.product_type,
    s.active_seconds, s.idle_seconds, s.cycles, s.cycle_seconds
FROM work_session s
WHERE (%(day)s::date IS NULL OR s.day = %(day)s::date) AND (%(zone)s::text IS NULL OR s.zone_id = %(zone)s)
  AND (%(worker)s::text IS NULL OR s.worker_id = %(worker)s)
ORDER BY s.started_at DESC, s.id LIMIT %(limit)s;

-- name: work_session_get
SELECT id, worker_id, zone_id, day, shift_number, started_at, ended_at, ended, continued, product_type, active_seconds,
    idle_seconds, motion, cycles, cycle_seconds
FROM work_session WHERE id = %(id)s;

-- name: work_cycles
SELECT position, index_number, started_at, ended_at, seconds, steps FROM work_cycle WHERE session_id = %(id)s
ORDER BY position;

-- name: work_hours
SELECT hour, active_seconds, idle_seconds, cycles FROM time_log WHERE session_id = %(id)s ORDER BY hour;

-- name: standard_at
-- What was in force in a zone at a time, that of the product first; before the first one, the first one.
SELECT id, zone_id, product_type, steps FROM standard_work
WHERE zone_id = %(zone_id)s AND (product_type IS NULL OR product_type = %(product_type)s::text)
ORDER BY product_type NULLS LAST, (created_at <= %(at)s AND (retired_at IS NULL OR retired_at > %(at)s)) DESC, created_at
LIMIT 1;

-- name: standard_versions
-- Of one zone and product, latest first.
SELECT id, zone_id, product_type, steps, origin, created_by, created_at, retired_at FROM standard_work
WHERE zone_id = %(zone_id)s AND product_type IS NOT DISTINCT FROM %(product_type)s::text
ORDER BY created_at DESC LIMIT 50;

-- name: cycles_to_record
-- Finished cycles of a zone in some days, latest first.
SELECT c.seconds, c.steps FROM work_cycle c JOIN work_session s ON s.id = c.session_id
WHERE s.zone_id = %(zone_id)s AND s.day >= %(since)s::date AND s.day <= %(until)s::date AND c.index_number IS NOT NULL
  AND jsonb_array_length(c.steps) > 0 AND (%(product_type)s::text IS NULL OR s.product_type = %(product_type)s)
ORDER BY c.started_at DESC LIMIT 5000;
