-- The first shape of the truth: plant, inbox, events, cases, outbox, points, people.

CREATE TABLE site (
    id        text PRIMARY KEY,
    name_th   text NOT NULL,
    name_en   text NOT NULL,
    timezone  text NOT NULL
);

CREATE TABLE area (
    site_id  text NOT NULL REFERENCES site,
    id       text NOT NULL,
    name_th  text NOT NULL,
    name_en  text NOT NULL,
    position integer NOT NULL,
    PRIMARY KEY (site_id, id)
);

-- A zone is what a camera watches: one per cell of a line (ISA-95 work unit).
CREATE TABLE zone (
    id       text PRIMARY KEY,
    site_id  text NOT NULL,
    area_id  text NOT NULL,
    line     text NOT NULL,
    cell     text NOT NULL,
    name_th  text NOT NULL,
    name_en  text NOT NULL,
    position integer NOT NULL,
    FOREIGN KEY (site_id, area_id) REFERENCES area (site_id, id),
    UNIQUE (site_id, area_id, line, cell)
);

CREATE TABLE camera (
    id      text PRIMARY KEY,
    zone_id text NOT NULL REFERENCES zone
);

CREATE TABLE worker (
    id      text PRIMARY KEY,
    zone_id text NOT NULL REFERENCES zone,
    skill   text NOT NULL
);

-- Raw bytes as they came, before anything is parsed. Acknowledged to the sender only after COMMIT of this row.
CREATE TABLE inbox (
    id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    received_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    door         text NOT NULL CHECK (door IN ('mqtt', 'http')),
    topic        text NOT NULL,
    content_type text,
    properties   jsonb NOT NULL DEFAULT '{}',
    payload      bytea NOT NULL,
    -- What the sender calls this event, where that could be read. Repeats of a pair are the same event.
    source       text,
    event_id     text,
    state        text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'quarantined')),
    settled_at   timestamptz,
    UNIQUE (source, event_id),
    CHECK ((state = 'pending') = (settled_at IS NULL))
);
CREATE INDEX inbox_pending ON inbox (id) WHERE state = 'pending';
CREATE INDEX inbox_received ON inbox (received_at);

CREATE TABLE quarantine (
    inbox_id bigint PRIMARY KEY REFERENCES inbox ON DELETE CASCADE,
    reason   text NOT NULL,
    at       timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX quarantine_at ON quarantine (at);

-- One understood event.
CREATE TABLE event (
    inbox_id    bigint PRIMARY KEY REFERENCES inbox ON DELETE CASCADE,
    class       text NOT NULL CHECK (class IN ('camera', 'worker', 'system', 'report')),
    kind        text NOT NULL,
    source      text NOT NULL,
    event_id    text NOT NULL,
    sequence    bigint,
    occurred_at timestamptz NOT NULL CHECK (occurred_at >= '2000-01-01' AND occurred_at < '2200-01-01'),
    zone_id     text REFERENCES zone,
    camera_id   text,
    worker_id   text,
    body        jsonb NOT NULL
);
CREATE INDEX event_zone ON event (zone_id, occurred_at);
CREATE INDEX event_source ON event (source, occurred_at);

CREATE SEQUENCE case_number;

-- An anomaly or an incident: what happened, and once closed, why and what fixed it.
CREATE TABLE cases (
    id                 uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    site_id            text NOT NULL REFERENCES site,
    -- The name people and other systems use: the record's own id when imported, C-000123 when opened here.
    record_id          text NOT NULL CHECK (length(record_id) BETWEEN 1 AND 200),
    kind               text NOT NULL CHECK (kind IN ('anomaly', 'incident')),
    status             text NOT NULL CHECK (status IN ('open', 'acknowledged', 'closed')),
    type               text NOT NULL CHECK (length(type) BETWEEN 1 AND 100),
    severity           text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    origin             text NOT NULL CHECK (origin IN ('event', 'import', 'person')),
    description        text NOT NULL CHECK (length(description) BETWEEN 1 AND 8000),
    language           text NOT NULL CHECK (language IN ('th', 'en', 'mixed')),
    root_cause         text CHECK (length(root_cause) BETWEEN 1 AND 8000),
    resolution         text CHECK (length(resolution) BETWEEN 1 AND 8000),
    outcome            text NOT NULL DEFAULT 'unknown' CHECK (outcome IN ('held', 'recurred', 'unknown')),
    -- Not a reference: an imported history may speak of zones that are gone.
    zone_id            text,
    camera_id          text,
    worker_id          text,
    tags               text[] NOT NULL DEFAULT '{}',
    occurred_at        timestamptz NOT NULL CHECK (occurred_at >= '2000-01-01' AND occurred_at < '2200-01-01'),
    last_seen_at       timestamptz NOT NULL,
    occurrences        integer NOT NULL DEFAULT 1 CHECK (occurrences > 0),
    acknowledged_at    timestamptz,
    acknowledged_by    text,
    closed_at          timestamptz,
    closed_by          text,
    minutes_to_restore integer CHECK (minutes_to_restore BETWEEN 0 AND 5256000),
    -- Counts every change of what is embedded or filtered on; the index is right when its point carries this number.
    version            integer NOT NULL DEFAULT 1,
    created_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (site_id, record_id),
    CHECK ((status = 'closed') = (closed_at IS NOT NULL))
);
CREATE INDEX cases_live ON cases (last_seen_at DESC) WHERE status <> 'closed';
CREATE INDEX cases_fold ON cases (zone_id, type) WHERE status <> 'closed';
CREATE INDEX cases_when ON cases (occurred_at);
CREATE INDEX cases_updated ON cases (updated_at);

-- The events behind a case.
CREATE TABLE case_event (
    case_id  uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    inbox_id bigint NOT NULL REFERENCES inbox ON DELETE CASCADE,
    PRIMARY KEY (case_id, inbox_id)
);
CREATE INDEX case_event_inbox ON case_event (inbox_id);

-- Who did what to a case, and when. Rows are only added.
CREATE TABLE case_log (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor   text NOT NULL,
    action  text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX case_log_case ON case_log (case_id, id);

-- What the index still has to learn. Written in the transaction that changes the row it speaks of.
CREATE TABLE outbox (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection    text NOT NULL,
    entity_id     uuid NOT NULL,
    operation     text NOT NULL CHECK (operation IN ('upsert', 'delete')),
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    attempts      integer NOT NULL DEFAULT 0,
    -- Not before this time: pushed on by a worker's claim (a lease) and by a failure (back-off).
    due_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at       timestamptz,
    last_error    text
);
CREATE INDEX outbox_due ON outbox (due_at) WHERE done_at IS NULL;
CREATE INDEX outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL;

-- What the index has learnt: which version of which row each point shows.
CREATE TABLE point (
    collection  text NOT NULL,
    point_id    uuid NOT NULL,
    entity_id   uuid NOT NULL,
    version     integer NOT NULL,
    fingerprint text NOT NULL,
    indexed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (collection, point_id)
);
CREATE INDEX point_entity ON point (entity_id);

-- The most similar past cases of a live case, as found when it was indexed.
CREATE TABLE case_match (
    case_id     uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    rank        integer NOT NULL CHECK (rank > 0),
    match_id    uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    score       double precision NOT NULL CHECK (score >= 0 AND score <= 1),
    PRIMARY KEY (case_id, rank),
    UNIQUE (case_id, match_id),
    CHECK (case_id <> match_id)
);

-- That the worker has looked for past cases like this one, and at which version of it.
CREATE TABLE case_lookup (
    case_id   uuid PRIMARY KEY REFERENCES cases ON DELETE CASCADE,
    version   integer NOT NULL,
    -- False while the index was still learning, or when the history has grown since: to be looked up again.
    complete  boolean NOT NULL,
    looked_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX case_lookup_when ON case_lookup (looked_at);

-- A case with the names of its place, as every reader wants it.
CREATE VIEW case_row AS
SELECT c.*,
       z.area_id, z.line, z.cell, z.name_th AS zone_th, z.name_en AS zone_en,
       a.name_th AS area_th, a.name_en AS area_en
FROM cases c
LEFT JOIN zone z ON z.id = c.zone_id
LEFT JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id;

CREATE TABLE account (
    id            uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    username      text NOT NULL UNIQUE CHECK (username ~ '^[a-z0-9][a-z0-9._-]{1,62}$'),
    password_hash text NOT NULL,
    role          text NOT NULL CHECK (role IN ('viewer', 'supervisor', 'engineer', 'admin')),
    disabled      boolean NOT NULL DEFAULT false,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE login_session (
    token_hash   bytea PRIMARY KEY,
    account_id   uuid NOT NULL REFERENCES account ON DELETE CASCADE,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL
);

CREATE TABLE login_failure (
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    username text NOT NULL,
    address  text NOT NULL
);
CREATE INDEX login_failure_at ON login_failure (at);

CREATE TABLE api_token (
    token_hash   bytea PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    scopes       text[] NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    last_used_at timestamptz
);

-- Every run of a scheduled job.
CREATE TABLE job_run (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job         text NOT NULL,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    details     jsonb NOT NULL DEFAULT '{}',
    error       text
);
CREATE INDEX job_run_job ON job_run (job, started_at DESC);
