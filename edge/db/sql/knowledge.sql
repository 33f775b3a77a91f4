-- name: document_lock
-- One document is added or retired at a time: versions of one title must not pass each other.
SELECT pg_advisory_xact_lock(hashtext('edge.document'));

-- name: document_same_file
SELECT id, title, title_key, version, retired_at FROM document
WHERE sha256 = %(sha256)s ORDER BY retired_at DESC NULLS FIRST;

-- name: document_versions
SELECT id, version, sha256, retired_at FROM document WHERE title_key = %(title_key)s ORDER BY added_at;

-- name: document_add
INSERT INTO document (title, title_key, version, document_type, language, zones, tags, effective_date, file_name, format,
                      sha256, pages, empty_pages, original, added_by)
VALUES (%(title)s, %(title_key)s, %(version)s, %(document_type)s, %(language)s, %(zones)s, %(tags)s, %(effective_date)s,
        %(file_name)s, %(format)s, %(sha256)s, %(pages)s, %(empty_pages)s, %(original)s, %(added_by)s)
RETURNING id;

-- name: passage_add
INSERT INTO passage (document_id, position, section, page, language, text)
VALUES (%(document_id)s, %(position)s, %(section)s, %(page)s, %(language)s, %(text)s);

-- name: document_retire
UPDATE document SET retired_at = clock_timestamp(), retired_by = %(actor)s WHERE id = %(id)s AND retired_at IS NULL;

-- name: document_reinstate
UPDATE document SET retired_at = NULL, retired_by = NULL WHERE id = %(id)s;

-- name: passage_touch
UPDATE passage SET version = version + 1 WHERE document_id = %(document_id)s;

-- name: passage_outbox
-- What is to be learnt of a document's passages, in the transaction that changes it.
WITH added AS (
    INSERT INTO outbox (collection, entity_id, operation)
    SELECT 'knowledge_base', id, %(operation)s FROM passage WHERE document_id = %(document_id)s ORDER BY position
)
SELECT pg_notify('edge_work', 'outbox');

-- name: document_list
SELECT d.id, d.title, d.version, d.document_type, d.language, d.zones, d.tags, d.effective_date, d.file_name, d.format,
       d.pages, d.empty_pages, octet_length(d.original) AS bytes, d.added_by, d.added_at, d.retired_by, d.retired_at,
       (SELECT count(*) FROM passage p WHERE p.document_id = d.id) AS passages
FROM document d
WHERE (%(id)s::uuid IS NULL OR d.id = %(id)s)
  AND (%(title_key)s::text IS NULL OR d.title_key = %(title_key)s)
  AND (%(retired)s OR d.retired_at IS NULL)
ORDER BY d.title_key, d.retired_at DESC NULLS FIRST, d.added_at DESC;

-- name: document_original
SELECT file_name, format, original FROM document WHERE id = %(id)s;

-- name: document_zones_unknown
SELECT wanted.id FROM unnest(%(zones)s::text[]) AS wanted (id)
WHERE NOT EXISTS (SELECT 1 FROM zone z WHERE z.id = wanted.id) ORDER BY wanted.id;

-- name: document_known_files
SELECT sha256 FROM document WHERE sha256 = ANY(%(hashes)s);

-- name: passage_list
SELECT position, section, page, language, text FROM passage WHERE document_id = %(document_id)s ORDER BY position;

-- name: passage_by_ids
SELECT p.id, p.version, p.position, p.section, p.page, p.language, p.text, p.document_id, d.title,
       d.version AS document_version, d.document_type, d.zones, d.tags, d.effective_date, d.file_name, d.format,
       s.id AS site_id
FROM passage p JOIN document d ON d.id = p.document_id CROSS JOIN (SELECT id FROM site ORDER BY id LIMIT 1) s
WHERE p.id = ANY(%(ids)s) AND d.retired_at IS NULL;

-- name: passage_clear
-- Whoever calls it has told the index before.
DELETE FROM passage WHERE document_id = %(document_id)s;
