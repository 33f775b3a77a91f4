-- name: outbound_add
-- What the plant is told of a case, as it is now. In the transaction that changes the case.
WITH said AS (
    INSERT INTO outbound (zone_id, record_id, payload)
    SELECT c.zone_id, c.record_id, jsonb_build_object(
        'event', %(event)s::text, 'at', clock_timestamp(), 'by', %(actor)s::text, 'details', %(details)s::jsonb,
        'case', jsonb_build_object(
            'record_id', c.record_id, 'kind', c.kind, 'type', c.type, 'severity', c.severity, 'status', c.status,
            'zone', c.zone_id, 'description', c.description, 'language', c.language, 'occurred_at', c.occurred_at,
            'occurrences', c.occurrences, 'outcome', c.outcome))
    FROM cases c WHERE c.id = %(id)s
    RETURNING id
)
INSERT INTO webhook_delivery (webhook_id, outbound_id)
SELECT w.id, said.id FROM said CROSS JOIN webhook w WHERE w.events = '{}' OR %(event)s = ANY(w.events);

-- name: outbound_take
-- One process sends at a time, as long as its transaction lasts. Empty, too, while another one does.
WITH held AS MATERIALIZED (SELECT pg_try_advisory_xact_lock(7013442027) AS mine)
SELECT o.id, o.zone_id, o.record_id, o.payload || jsonb_build_object('id', o.id) AS payload
FROM held, outbound o WHERE held.mine AND o.sent_at IS NULL ORDER BY o.id LIMIT %(limit)s;

-- name: outbound_sent
UPDATE outbound SET sent_at = clock_timestamp() WHERE id = ANY(%(ids)s);

-- name: outbound_purge
-- What nobody has to be told any more.
DELETE FROM outbound o WHERE o.at < clock_timestamp() - make_interval(days => %(days)s)
  AND NOT EXISTS (SELECT 1 FROM webhook_delivery d WHERE d.outbound_id = o.id AND d.state <> 'done'
      AND o.at >= clock_timestamp() - make_interval(days => %(dead_days)s));

-- name: andon_zones
-- The state of each zone, or of those named, as a signal tower would show it. Its newest case with the fix of the most
-- similar past case that is really alike, one that held before one that did not.
SELECT z.id AS zone, z.area_id AS area, z.line, z.cell, z.name_th, z.name_en, live.open, live.acknowledged, live.overdue,
    (ARRAY['low', 'medium', 'high', 'critical'])[live.worst] AS severity, newest.case
FROM zone z
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE c.status = 'open')::int AS open,
        count(*) FILTER (WHERE c.status = 'acknowledged')::int AS acknowledged,
        count(*) FILTER (WHERE c.status = 'open' AND c.overdue_at IS NOT NULL)::int AS overdue,
        max(array_position(ARRAY['low', 'medium', 'high', 'critical'], c.severity)) AS worst
    FROM cases c WHERE c.zone_id = z.id AND c.status <> 'closed') live
LEFT JOIN LATERAL (
    SELECT jsonb_build_object(
        'record_id', c.record_id, 'kind', c.kind, 'type', c.type, 'severity', c.severity, 'status', c.status,
        'description', c.description, 'language', c.language, 'occurred_at', c.occurred_at,
        'best', (SELECT jsonb_build_object('record_id', p.record_id, 'score', m.score, 'band', m.band,
                    'root_cause', p.root_cause, 'resolution', p.resolution, 'outcome', p.outcome)
                 FROM case_match m JOIN cases p ON p.id = m.match_id
                 WHERE m.case_id = c.id AND m.band <> 'weak' AND p.resolution IS NOT NULL
                 ORDER BY p.outcome = 'held' DESC, m.rank LIMIT 1)) AS case
    FROM cases c WHERE c.zone_id = z.id AND c.status <> 'closed' ORDER BY c.occurred_at DESC, c.id LIMIT 1) newest ON true
WHERE %(zones)s::text[] = '{}' OR z.id = ANY(%(zones)s)
ORDER BY z.position, z.id;

-- name: site_id
SELECT id FROM site ORDER BY id LIMIT 1;

-- name: webhook_add
INSERT INTO webhook (name, url, secret, events, internal, plain)
VALUES (%(name)s, %(url)s, %(secret)s, %(events)s, %(internal)s, %(plain)s)
ON CONFLICT (name) DO NOTHING;

-- name: webhook_remove
DELETE FROM webhook WHERE name = %(name)s;

-- name: webhook_get
SELECT id, name, url, secret, events, internal, plain FROM webhook WHERE name = %(name)s;

-- name: webhooks
SELECT w.name, w.url, w.events, count(d.*) FILTER (WHERE d.state = 'pending')::int AS pending,
    count(d.*) FILTER (WHERE d.state = 'dead')::int AS dead, max(d.settled_at) FILTER (WHERE d.state = 'done') AS last_done,
    (SELECT l.last_error FROM webhook_delivery l WHERE l.webhook_id = w.id AND l.last_error IS NOT NULL AND l.state <> 'done'
     ORDER BY l.outbound_id DESC LIMIT 1) AS last_error
FROM webhook w LEFT JOIN webhook_delivery d ON d.webhook_id = w.id
GROUP BY w.id ORDER BY w.name;

-- name: delivery_claim
-- On lease, and few of one target at a time: one that does not answer must not hold up the others.
WITH due AS (
    SELECT d.webhook_id, d.outbound_id, row_number() OVER (PARTITION BY d.webhook_id ORDER BY d.outbound_id) AS place
    FROM webhook_delivery d WHERE d.state = 'pending' AND d.due_at <= clock_timestamp()
), taken AS (
    SELECT d.webhook_id, d.outbound_id FROM webhook_delivery d JOIN due USING (webhook_id, outbound_id)
    WHERE due.place <= %(each)s AND d.state = 'pending' AND d.due_at <= clock_timestamp()
    ORDER BY d.outbound_id LIMIT %(limit)s FOR UPDATE OF d SKIP LOCKED
), claimed AS (
    UPDATE webhook_delivery d
    SET attempts = d.attempts + 1, due_at = clock_timestamp() + make_interval(secs => %(lease)s)
    FROM taken t WHERE d.webhook_id = t.webhook_id AND d.outbound_id = t.outbound_id
    RETURNING d.webhook_id, d.outbound_id, d.attempts
)
SELECT c.webhook_id, c.outbound_id, c.attempts, w.name, w.url, w.secret, w.internal, w.plain,
    o.payload || jsonb_build_object('id', o.id) AS payload
FROM claimed c JOIN webhook w ON w.id = c.webhook_id JOIN outbound o ON o.id = c.outbound_id
ORDER BY c.outbound_id;

-- name: delivery_done
UPDATE webhook_delivery SET state = 'done', settled_at = clock_timestamp(), last_error = NULL
WHERE webhook_id = %(webhook_id)s AND outbound_id = %(outbound_id)s;

-- name: delivery_failed
UPDATE webhook_delivery SET last_error = %(error)s,
    state = CASE WHEN %(dead)s THEN 'dead' ELSE 'pending' END,
    settled_at = CASE WHEN %(dead)s THEN clock_timestamp() END,
    due_at = clock_timestamp() + make_interval(secs => %(seconds)s)
WHERE webhook_id = %(webhook_id)s AND outbound_id = %(outbound_id)s AND state = 'pending';

-- name: delivery_dead
SELECT w.name, d.outbound_id, o.at, o.record_id, o.payload ->> 'event' AS event, d.attempts, d.last_error
FROM webhook_delivery d JOIN webhook w ON w.id = d.webhook_id JOIN outbound o ON o.id = d.outbound_id
WHERE d.state = 'dead' AND (%(name)s::text IS NULL OR w.name = %(name)s) ORDER BY d.outbound_id DESC LIMIT %(limit)s;

-- name: delivery_replay
UPDATE webhook_delivery d SET state = 'pending', attempts = 0, due_at = clock_timestamp(), settled_at = NULL
FROM webhook w WHERE w.id = d.webhook_id AND d.state = 'dead' AND (%(name)s::text IS NULL OR w.name = %(name)s);
