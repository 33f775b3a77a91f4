-- The index is fed from any table, knows which encoders it was built with, and what each of its points was made of.

-- What each collection should hold now. A table that feeds another collection replaces that collection's view by
-- SELECT id, version; nothing else has to change for its rows to be indexed, counted and reconciled.
CREATE VIEW indexable_work_sequences (entity_id, version) AS SELECT NULL::uuid, NULL::integer WHERE false;
CREATE VIEW indexable_anomaly_patterns (entity_id, version) AS SELECT id, version FROM cases WHERE kind = 'anomaly';
CREATE VIEW indexable_knowledge_base (entity_id, version) AS SELECT NULL::uuid, NULL::integer WHERE false;
CREATE VIEW indexable_worker_behaviors (entity_id, version) AS SELECT NULL::uuid, NULL::integer WHERE false;
CREATE VIEW indexable_incident_reports (entity_id, version) AS SELECT id, version FROM cases WHERE kind = 'incident';

CREATE VIEW indexable (collection, entity_id, version) AS
SELECT 'work_sequences', entity_id, version FROM indexable_work_sequences
UNION ALL SELECT 'anomaly_patterns', entity_id, version FROM indexable_anomaly_patterns
UNION ALL SELECT 'knowledge_base', entity_id, version FROM indexable_knowledge_base
UNION ALL SELECT 'worker_behaviors', entity_id, version FROM indexable_worker_behaviors
UNION ALL SELECT 'incident_reports', entity_id, version FROM indexable_incident_reports;

-- Which encoders the index was built with: one serves, another may be built beside it, former ones are kept to go back to.
CREATE TABLE index_version (
    fingerprint text PRIMARY KEY,
    model       text NOT NULL,
    state       text NOT NULL CHECK (state IN ('building', 'serving', 'kept')),
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    served_at   timestamptz,
    -- How much its answers resemble those of the encoder it is to replace, as last measured.
    compared    jsonb
);
CREATE UNIQUE INDEX index_version_serving ON index_version (state) WHERE state = 'serving';

-- Points of two encoders stand side by side while one index is built beside the other.
ALTER TABLE point DROP CONSTRAINT point_pkey;
ALTER TABLE point ADD PRIMARY KEY (fingerprint, collection, point_id);
-- Of the texts its vectors were made from: while they stay the same, only the payload has to be written.
ALTER TABLE point ADD COLUMN texts_digest bytea;
