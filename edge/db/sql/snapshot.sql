-- name: snapshot_state
-- What a bundle says about the server, and the server's own clock: changes are told apart by it.
SELECT clock_timestamp() AS now, current_setting('server_version_num')::int / 10000 AS major,
       pg_database_size(current_database()) AS bytes;

-- name: snapshot_relations
-- How much somebody has already put into this database.
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_%%'
  AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f');

-- name: snapshot_counter
-- Counts one table by name; it lives as long as the connection.
CREATE OR REPLACE FUNCTION pg_temp.snapshot_count(wanted regclass) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM ' || wanted INTO found;
    RETURN found;
END
$$;

-- name: snapshot_counts
SELECT c.relname AS name, pg_temp.snapshot_count(c.oid) AS rows
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'public' AND c.relkind = 'r' ORDER BY c.relname;

-- name: snapshot_touched
-- What the index may have learnt since a moment: rows settled after it, and rows some worker may hold right now.
SELECT DISTINCT collection, entity_id FROM outbox WHERE done_at IS NULL OR done_at >= %(since)s;

-- name: snapshot_requeue
-- The index is to look at these once more; a case that is gone leaves the index then.
INSERT INTO outbox (collection, entity_id, operation)
SELECT wanted.collection, wanted.entity_id, 'upsert'
FROM unnest(%(collections)s::text[], %(ids)s::uuid[]) AS wanted (collection, entity_id)
WHERE NOT EXISTS (SELECT 1 FROM outbox o
                  WHERE o.collection = wanted.collection AND o.entity_id = wanted.entity_id AND o.done_at IS NULL);

-- name: snapshot_analyze
-- A restored database has no statistics yet.
ANALYZE;
