-- Documents of the plant (SOPs, manuals) and the passages they are found by.

CREATE TABLE document (
    id             uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    title          text NOT NULL CHECK (length(title) BETWEEN 1 AND 300),
    -- The title in its one spelling: what makes two files versions of one document.
    title_key      text NOT NULL,
    version        text NOT NULL CHECK (length(version) BETWEEN 1 AND 40),
    document_type  text NOT NULL CHECK (document_type IN ('sop', 'work_instruction', 'manual', 'safety', 'other')),
    language       text NOT NULL CHECK (language IN ('th', 'en', 'mixed')),
    -- Empty: for the whole plant.
    zones          text[] NOT NULL DEFAULT '{}',
    tags           text[] NOT NULL DEFAULT '{}',
    effective_date date,
    file_name      text NOT NULL,
    format         text NOT NULL CHECK (format IN ('pdf', 'docx', 'txt', 'md')),
    sha256         bytea NOT NULL,
    -- NULL: a format without pages.
    pages          integer CHECK (pages > 0),
    -- Pages that are pictures: nothing on them can be found.
    empty_pages    integer[] NOT NULL DEFAULT '{}',
    original       bytea NOT NULL,
    added_by       text NOT NULL,
    added_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_by     text,
    retired_at     timestamptz,
    UNIQUE (title_key, version)
);
CREATE UNIQUE INDEX document_valid ON document (title_key) WHERE retired_at IS NULL;
CREATE INDEX document_sha256 ON document (sha256);

CREATE TABLE passage (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    document_id uuid NOT NULL REFERENCES document ON DELETE CASCADE,
    -- From 1, in the order of the document.
    position    integer NOT NULL CHECK (position > 0),
    -- The headings above it, outermost first.
    section     text NOT NULL,
    page        integer CHECK (page > 0),
    language    text NOT NULL CHECK (language IN ('th', 'en', 'mixed')),
    text        text NOT NULL,
    -- Counts what the index has to learn about it: it comes and goes with its document.
    version     integer NOT NULL DEFAULT 1,
    UNIQUE (document_id, position)
);

CREATE OR REPLACE VIEW indexable_knowledge_base (entity_id, version) AS
SELECT p.id, p.version FROM passage p JOIN document d ON d.id = p.document_id WHERE d.retired_at IS NULL;
