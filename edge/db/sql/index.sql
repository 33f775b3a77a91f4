-- name: indexable_of
-- Where these rows belong now, and at which version.
SELECT collection, entity_id, version FROM indexable WHERE entity_id = ANY(%(ids)s);

-- name: indexable_sample
-- Rows from all over, the same ones each time.
SELECT collection, entity_id FROM indexable ORDER BY md5(entity_id::text) LIMIT %(limit)s;

-- name: point_of
-- What one encoder's index knows of these rows.
SELECT collection, entity_id, version, texts_digest FROM point
WHERE fingerprint = %(fingerprint)s AND entity_id = ANY(%(ids)s);

-- name: point_put
INSERT INTO point (collection, point_id, entity_id, version, fingerprint, texts_digest)
VALUES (%(collection)s, %(point_id)s, %(entity_id)s, %(version)s, %(fingerprint)s, %(texts_digest)s)
ON CONFLICT (fingerprint, collection, point_id) DO UPDATE
SET version = excluded.version, texts_digest = excluded.texts_digest, indexed_at = clock_timestamp();

-- name: point_drop
DELETE FROM point WHERE fingerprint = %(fingerprint)s AND collection = %(collection)s AND point_id = ANY(%(ids)s);

-- name: point_drop_version
DELETE FROM point WHERE fingerprint = %(fingerprint)s;

-- name: point_drop_all
DELETE FROM point;

-- name: point_ids
-- What one encoder's index should hold, a page at a time.
SELECT point_id FROM point
WHERE fingerprint = %(fingerprint)s AND collection = %(collection)s AND point_id > %(after)s
ORDER BY point_id LIMIT %(limit)s;

-- name: point_count
SELECT collection, count(*) AS points FROM point WHERE fingerprint = %(fingerprint)s GROUP BY collection;

-- name: index_difference
-- How one encoder's index differs from the rows: missing (or lost: its points are not in the index after all), stale, or
-- shown though the row is gone.
SELECT how, count(*) AS rows FROM (
    SELECT CASE WHEN p.entity_id IS NULL OR p.point_id = ANY(%(lost)s::uuid[]) THEN 'missing' ELSE 'stale' END AS how
    FROM indexable i
    LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = i.collection AND p.entity_id = i.entity_id
    WHERE p.entity_id IS NULL OR p.version <> i.version OR p.point_id = ANY(%(lost)s::uuid[])
    UNION ALL
    SELECT 'orphaned' FROM point p
    WHERE p.fingerprint = %(fingerprint)s AND p.point_id <> ALL(%(lost)s::uuid[])
      AND NOT EXISTS (SELECT 1 FROM indexable i WHERE i.collection = p.collection AND i.entity_id = p.entity_id)
) differing
GROUP BY how;

-- name: index_lacks
-- Rows that one encoder's index lacks, shows at an older version, or shows though they are gone.
SELECT i.collection, i.entity_id
FROM indexable i
LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = i.collection AND p.entity_id = i.entity_id
WHERE p.entity_id IS NULL OR p.version <> i.version
UNION ALL
SELECT p.collection, p.entity_id FROM point p
WHERE p.fingerprint = %(fingerprint)s
  AND NOT EXISTS (SELECT 1 FROM indexable i WHERE i.collection = p.collection AND i.entity_id = p.entity_id)
LIMIT %(limit)s;

-- name: index_lacking
SELECT count(*) FROM indexable i
LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = i.collection AND p.entity_id = i.entity_id
WHERE p.entity_id IS NULL OR p.version <> i.version;

-- name: outbox_add_stale
-- Everything one encoder's index lacks, shows at an older version, or shows though it is gone, is queued once.
WITH differing AS (
    SELECT i.collection, i.entity_id
    FROM indexable i
    LEFT JOIN point p ON p.fingerprint = %(fingerprint)s AND p.collection = i.collection AND p.entity_id = i.entity_id
    WHERE p.entity_id IS NULL OR p.version <> i.version
    UNION ALL
    SELECT p.collection, p.entity_id FROM point p
    WHERE p.fingerprint = %(fingerprint)s
      AND NOT EXISTS (SELECT 1 FROM indexable i WHERE i.collection = p.collection AND i.entity_id = p.entity_id)
), added AS (
    INSERT INTO outbox (collection, entity_id, operation)
    SELECT d.collection, d.entity_id, 'upsert' FROM differing d
    WHERE NOT EXISTS (SELECT 1 FROM outbox o WHERE o.entity_id = d.entity_id AND o.collection = d.collection
                      AND o.done_at IS NULL)
    RETURNING 1
)
SELECT count(*), pg_notify('edge_work', 'outbox') FROM added;

-- name: index_versions
SELECT v.fingerprint, v.model, v.state, v.started_at, v.served_at, v.compared,
       (SELECT count(*) FROM point p WHERE p.fingerprint = v.fingerprint) AS points
FROM index_version v ORDER BY v.started_at, v.fingerprint;

-- name: index_serving
SELECT fingerprint, model FROM index_version WHERE state = 'serving';

-- name: index_version_put
-- A version that is known stays in its state.
INSERT INTO index_version (fingerprint, model, state) VALUES (%(fingerprint)s, %(model)s, 'building')
ON CONFLICT (fingerprint) DO UPDATE SET model = excluded.model;

-- name: index_version_retire
UPDATE index_version SET state = 'kept' WHERE state = 'serving' AND fingerprint <> %(fingerprint)s;

-- name: index_version_serve
UPDATE index_version SET state = 'serving', served_at = clock_timestamp()
WHERE fingerprint = %(fingerprint)s AND state <> 'serving';

-- name: index_version_compared
UPDATE index_version SET compared = %(compared)s WHERE fingerprint = %(fingerprint)s;

-- name: index_version_drop
DELETE FROM index_version WHERE fingerprint = %(fingerprint)s AND state <> 'serving';
