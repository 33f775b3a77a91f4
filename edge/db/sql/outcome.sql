-- What time makes of a case: overdue, escalated, its fix held or came back.

-- name: case_overdue
-- Open cases nobody has taken for so long.
UPDATE cases SET overdue_at = clock_timestamp(), updated_at = clock_timestamp()
WHERE id IN (
    SELECT id FROM cases WHERE status = 'open' AND overdue_at IS NULL
      AND waiting_since <= clock_timestamp() - make_interval(mins => %(minutes)s)
    ORDER BY waiting_since LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, kind;

-- name: case_escalate
UPDATE cases SET escalated_at = clock_timestamp(), version = version + 1, updated_at = clock_timestamp(),
    severity = CASE severity WHEN 'low' THEN 'medium' WHEN 'medium' THEN 'high' ELSE 'critical' END
WHERE id IN (
    SELECT id FROM cases WHERE status = 'open' AND escalated_at IS NULL
      AND waiting_since <= clock_timestamp() - make_interval(mins => %(minutes)s)
    ORDER BY waiting_since LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, kind, severity;

-- name: case_returned
-- Closed cases whose problem came back within so many days: the same type in the same zone. The earliest return
-- counts. A person's word stays; the appliance's own is taken back when a return is learnt of late.
SELECT c.id, c.kind, back.id AS back_id, back.record_id
FROM cases c
CROSS JOIN LATERAL (
    SELECT n.id, n.record_id FROM cases n
    WHERE n.zone_id = c.zone_id AND n.type = c.type AND n.site_id = c.site_id AND n.id <> c.id
      AND n.occurred_at > c.closed_at AND n.occurred_at <= c.closed_at + make_interval(days => %(days)s)
    ORDER BY n.occurred_at, n.id LIMIT 1) back
WHERE c.status = 'closed' AND c.origin <> 'import' AND c.resolution IS NOT NULL AND c.zone_id IS NOT NULL
  AND (c.outcome_by IS NULL OR (c.outcome_by = 'appliance' AND c.outcome <> 'recurred'))
  AND c.type <> ALL(%(vague)s::text[])
  AND (%(since)s::timestamptz IS NULL OR c.closed_at >= %(since)s)
ORDER BY c.closed_at LIMIT %(limit)s
FOR UPDATE OF c SKIP LOCKED;

-- name: case_perhaps_returned
-- Closed cases of a type that names no problem, with later ones in the same zone: whether any is alike, the search says.
SELECT c.id
FROM cases c JOIN cases n ON n.zone_id = c.zone_id AND n.site_id = c.site_id AND n.id <> c.id
    AND n.occurred_at > c.closed_at AND n.occurred_at <= c.closed_at + make_interval(days => %(days)s)
WHERE c.status = 'closed' AND c.origin <> 'import' AND c.resolution IS NOT NULL
  AND (c.outcome_by IS NULL OR (c.outcome_by = 'appliance' AND c.outcome <> 'recurred' AND c.closed_at >= %(since)s))
  AND c.type = ANY(%(vague)s::text[])
  AND (%(after)s::uuid IS NULL OR c.id > %(after)s::uuid)
GROUP BY c.id ORDER BY c.id LIMIT %(limit)s;

-- name: case_fix_recurred
UPDATE cases SET outcome = 'recurred', outcome_by = 'appliance', outcome_at = clock_timestamp(),
    recurred_case = %(back_id)s, version = version + 1, updated_at = clock_timestamp()
WHERE id = %(id)s AND status = 'closed'
  AND (outcome_by IS NULL OR (outcome_by = 'appliance' AND outcome <> 'recurred'))
RETURNING kind;

-- name: case_fix_held
-- The days are over and nothing came back.
UPDATE cases SET outcome = 'held', outcome_by = 'appliance', outcome_at = clock_timestamp(),
    version = version + 1, updated_at = clock_timestamp()
WHERE id IN (
    SELECT id FROM cases WHERE status = 'closed' AND outcome_by IS NULL AND outcome = 'unknown' AND origin <> 'import'
      AND resolution IS NOT NULL AND zone_id IS NOT NULL
      AND closed_at <= clock_timestamp() - make_interval(days => %(days)s)
    ORDER BY closed_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
RETURNING id, kind;

-- name: case_judge
-- A person's word about a fix.
UPDATE cases SET outcome = %(outcome)s, outcome_by = %(actor)s, outcome_at = clock_timestamp(),
    recurred_case = CASE WHEN %(outcome)s = 'recurred' THEN recurred_case END,
    version = version + 1, updated_at = clock_timestamp()
WHERE id = %(id)s AND status = 'closed';

-- name: case_promote
UPDATE cases SET kind = 'incident', version = version + 1, updated_at = clock_timestamp()
WHERE id = %(id)s AND kind = 'anomaly';
