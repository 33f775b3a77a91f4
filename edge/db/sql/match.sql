-- name: case_unmatched
-- Live cases that were not looked up yet, and, once the index has caught up, those looked up before it had.
SELECT r.*, learning.left > 0 AS learning
FROM case_row r
LEFT JOIN case_lookup l ON l.case_id = r.id
CROSS JOIN (SELECT count(*) AS left FROM (SELECT 1 FROM outbox WHERE done_at IS NULL LIMIT 1) o) learning
WHERE r.status <> 'closed' AND (l.case_id IS NULL OR (NOT l.complete AND learning.left = 0))
ORDER BY l.case_id IS NULL DESC, r.last_seen_at DESC LIMIT %(limit)s;

-- name: match_alike
-- The past cases it was given before that are really alike, best first.
SELECT coalesce(array_agg(match_id ORDER BY rank), '{}') FROM case_match WHERE case_id = %(case_id)s AND band <> 'weak';

-- name: match_clear
DELETE FROM case_match WHERE case_id = %(case_id)s;

-- name: match_put
INSERT INTO case_match (case_id, rank, match_id, score, band)
VALUES (%(case_id)s, %(rank)s, %(match_id)s, %(score)s, %(band)s);

-- name: lookup_put
INSERT INTO case_lookup (case_id, version, complete) VALUES (%(case_id)s, %(version)s, %(complete)s)
ON CONFLICT (case_id) DO UPDATE
SET version = excluded.version, complete = excluded.complete, looked_at = clock_timestamp();

-- name: lookup_outdate
-- The history has grown: what is on the board deserves another look.
UPDATE case_lookup SET complete = false
WHERE complete AND case_id IN (SELECT id FROM cases WHERE status <> 'closed');
