-- The whole schema as one file, to be read. Nothing runs it: a database is built by migrations/*.sql, and a test proves
-- that they build exactly this. A migration that changes the schema changes this file too; a column added by
-- ALTER TABLE stands last in its table.

-- Which migrations this database has seen, each with the SHA-256 of its file: an applied one is never edited.
CREATE TABLE migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

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
    body        jsonb NOT NULL,
    -- Whether it came long after it had happened.
    late        boolean NOT NULL DEFAULT false
);
CREATE INDEX event_late ON event (occurred_at) WHERE late;
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
    CHECK ((status = 'closed') = (closed_at IS NOT NULL)),
    -- The source whose alarms came too often to be read, and the last alarm of such a burst.
    chatter_source     text,
    chatter_at         timestamptz,
    -- Who says whether the fix held: 'appliance', or a person, whose word stays. NULL: nobody yet.
    outcome_by         text,
    outcome_at         timestamptz,
    -- The case in which the problem came back.
    recurred_case      uuid REFERENCES cases ON DELETE SET NULL,
    -- Since when somebody should take it, when that became too long, and when it was escalated for that.
    waiting_since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    overdue_at         timestamptz,
    escalated_at       timestamptz
);
CREATE INDEX cases_watched ON cases (closed_at) WHERE status = 'closed' AND origin <> 'import'
    AND (outcome_by IS NULL OR (outcome_by = 'appliance' AND outcome <> 'recurred'));
CREATE INDEX cases_recurred ON cases (recurred_case) WHERE recurred_case IS NOT NULL;
CREATE INDEX cases_chatter ON cases (chatter_at) WHERE chatter_source IS NOT NULL;
CREATE INDEX cases_live ON cases (last_seen_at DESC) WHERE status <> 'closed';
CREATE INDEX cases_fold ON cases (zone_id, type) WHERE status <> 'closed';
CREATE INDEX cases_when ON cases (occurred_at);
CREATE INDEX cases_updated ON cases (updated_at);
CREATE INDEX cases_again ON cases (zone_id, type, occurred_at);

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

-- What the index has learnt: which version of which row each point shows, by encoder.
CREATE TABLE point (
    collection   text NOT NULL,
    point_id     uuid NOT NULL,
    entity_id    uuid NOT NULL,
    version      integer NOT NULL,
    fingerprint  text NOT NULL,
    indexed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Of the texts its vectors were made from: while they stay the same, only the payload has to be written.
    texts_digest bytea,
    PRIMARY KEY (fingerprint, collection, point_id)
);
CREATE INDEX point_entity ON point (entity_id);

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

-- What each collection should hold now. A table that feeds another collection replaces that collection's view by
-- SELECT id, version; nothing else has to change for its rows to be indexed, counted and reconciled.
CREATE VIEW indexable_anomaly_patterns (entity_id, version) AS SELECT id, version FROM cases WHERE kind = 'anomaly';
CREATE VIEW indexable_incident_reports (entity_id, version) AS SELECT id, version FROM cases WHERE kind = 'incident';

-- The most similar past cases of a live case, as found when it was indexed.
CREATE TABLE case_match (
    case_id     uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    rank        integer NOT NULL CHECK (rank > 0),
    match_id    uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    score       double precision NOT NULL CHECK (score >= 0 AND score <= 1),
    -- How alike the search judged them, in its words. NULL: found before this was kept.
    band        text,
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

-- What people say about results. Rows are only added: the latest word of a person about a pair counts, and taking it
-- back is a row of its own. No machine writes here.
CREATE TABLE feedback (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor         text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    -- Whether two tell of one problem, or whether two cases had one fix.
    topic         text NOT NULL CHECK (topic IN ('problem', 'fix')),
    said          text NOT NULL CHECK (said IN ('same', 'different', 'helped', 'withdrawn')),
    -- The result that was judged …
    case_id       uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    -- … and what it was shown for: a case, or a question.
    for_case_id   uuid REFERENCES cases ON DELETE CASCADE,
    question      text CHECK (length(question) BETWEEN 1 AND 4000),
    -- SHA-256 of the question in its one spelling: two typings of a question are one.
    question_hash bytea,
    CHECK ((for_case_id IS NULL) <> (question IS NULL)),
    CHECK ((question IS NULL) = (question_hash IS NULL)),
    CHECK (for_case_id <> case_id),
    CHECK (topic = 'problem' OR (for_case_id IS NOT NULL AND said <> 'helped'))
);
CREATE INDEX feedback_case ON feedback (case_id);
CREATE INDEX feedback_for_case ON feedback (for_case_id) WHERE for_case_id IS NOT NULL;
CREATE INDEX feedback_question ON feedback (question_hash) WHERE question_hash IS NOT NULL;

-- Which probability a score stands for. Every fit is kept; the latest of an encoder's fingerprint is in force.
CREATE TABLE calibration (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    fingerprint text NOT NULL,
    -- 'prior': measured on the evaluation set that ships; 'own': the prior and what people said here.
    origin      text NOT NULL CHECK (origin IN ('prior', 'own')),
    curve       jsonb NOT NULL,
    figures     jsonb NOT NULL
);
CREATE INDEX calibration_fingerprint ON calibration (fingerprint, id DESC);

-- Standard work of a zone, as an engineer wrote or recorded it. A new version retires the one before.
CREATE TABLE standard_work (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    zone_id      text NOT NULL REFERENCES zone,
    -- NULL: for whatever is made there.
    product_type text CHECK (length(product_type) BETWEEN 1 AND 100),
    -- [{"name": …, "seconds": …, "critical": …}, …]
    steps        jsonb NOT NULL CHECK (jsonb_typeof(steps) = 'array' AND jsonb_array_length(steps) BETWEEN 1 AND 200),
    origin       text NOT NULL CHECK (origin IN ('plant', 'written', 'recorded')),
    created_by   text NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    retired_at   timestamptz
);
CREATE UNIQUE INDEX standard_work_valid ON standard_work (zone_id, coalesce(product_type, '')) WHERE retired_at IS NULL;

-- Which sessions have to be made anew from their events: one row for a worker's shift.
CREATE TABLE session_due (
    worker_id text NOT NULL,
    shift     timestamptz NOT NULL,
    due_at    timestamptz NOT NULL,
    -- Counts the events that asked for it: a run that took fewer leaves the row to the next one.
    asked     integer NOT NULL DEFAULT 1,
    PRIMARY KEY (worker_id, shift)
);
CREATE INDEX session_due_at ON session_due (due_at);

-- One worker in one zone within one shift. Made from events alone, so making it again changes nothing.
CREATE TABLE work_session (
    id             uuid PRIMARY KEY,
    worker_id      text NOT NULL,
    zone_id        text NOT NULL REFERENCES zone,
    -- The shift it belongs to: production day, number within it, and start.
    day            date NOT NULL,
    shift_number   integer NOT NULL,
    shift          timestamptz NOT NULL,
    position       integer NOT NULL,
    started_at     timestamptz NOT NULL,
    ended_at       timestamptz NOT NULL,
    ended          boolean NOT NULL,
    start_seen     boolean NOT NULL,
    end_seen       boolean NOT NULL,
    continued      boolean NOT NULL,
    product_type   text,
    active_seconds double precision NOT NULL,
    idle_seconds   double precision NOT NULL,
    motion         double precision,
    cycles         integer NOT NULL,
    cycle_seconds  double precision,
    -- Counts every change of what it says; the index is right when its point carries this number.
    version        integer NOT NULL DEFAULT 1,
    checksum       text NOT NULL,
    updated_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (worker_id, shift, position),
    CHECK (started_at <= ended_at)
);
CREATE INDEX work_session_zone ON work_session (zone_id, started_at);
CREATE INDEX work_session_day ON work_session (worker_id, day);

-- One piece: the steps between two index events (index record). `index_number` NULL: its end was not reported.
CREATE TABLE work_cycle (
    session_id   uuid NOT NULL REFERENCES work_session ON DELETE CASCADE,
    position     integer NOT NULL,
    index_number integer,
    started_at   timestamptz NOT NULL,
    ended_at     timestamptz NOT NULL,
    seconds      double precision NOT NULL,
    -- [{"name": …, "at": …, "seconds": …, "event": inbox id}, …]
    steps        jsonb NOT NULL,
    PRIMARY KEY (session_id, position)
);

-- What of a session fell into each hour of plant time.
CREATE TABLE time_log (
    session_id     uuid NOT NULL REFERENCES work_session ON DELETE CASCADE,
    hour           timestamptz NOT NULL,
    active_seconds double precision NOT NULL,
    idle_seconds   double precision NOT NULL,
    cycles         integer NOT NULL,
    motion         double precision,
    PRIMARY KEY (session_id, hour)
);

-- What each detector remembers of each subject.
CREATE TABLE detector_state (
    detector text NOT NULL,
    subject  text NOT NULL,
    state    jsonb NOT NULL,
    PRIMARY KEY (detector, subject)
);

-- Who watched last. Another process that watches must not trust what it remembers itself.
CREATE TABLE detector_owner (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    owner    uuid NOT NULL,
    -- The latest time any event spoke of: the clock of the detectors.
    clock    timestamptz
);

-- What a detector found, with its reason in both languages. The case it opened or joined holds the rest.
CREATE TABLE finding (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    case_id           uuid NOT NULL REFERENCES cases ON DELETE CASCADE,
    detector          text NOT NULL,
    type              text NOT NULL,
    severity          text NOT NULL CHECK (severity IN ('low', 'medium', 'high', 'critical')),
    at                timestamptz NOT NULL,
    reason_th         text NOT NULL,
    reason_en         text NOT NULL,
    zone_id           text,
    seconds_lost      double precision NOT NULL DEFAULT 0 CHECK (seconds_lost >= 0),
    workers_affected  integer NOT NULL DEFAULT 0,
    productivity_loss double precision NOT NULL DEFAULT 0 CHECK (productivity_loss BETWEEN 0 AND 1)
);
CREATE INDEX finding_case ON finding (case_id, at);
CREATE INDEX finding_at ON finding (at);

CREATE VIEW case_row AS
SELECT c.*, r.record_id AS recurred_as,
       z.area_id, z.line, z.cell, z.name_th AS zone_th, z.name_en AS zone_en,
       a.name_th AS area_th, a.name_en AS area_en, f.reason_th AS told_th, f.reason_en AS told_en
FROM cases c
LEFT JOIN cases r ON r.id = c.recurred_case
LEFT JOIN zone z ON z.id = c.zone_id
LEFT JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id
LEFT JOIN LATERAL (
    SELECT reason_th, reason_en FROM finding
    WHERE case_id = c.id AND c.origin = 'event' AND c.description IN (reason_th, reason_en)
    ORDER BY at, id LIMIT 1) f ON true;

-- Sessions and behaviours read the events of one worker.
CREATE INDEX event_worker ON event (worker_id, occurred_at) WHERE worker_id IS NOT NULL;

-- Sessions that are over and made at least one piece are sequences one can compare.
CREATE VIEW indexable_work_sequences (entity_id, version) AS
SELECT id, version FROM work_session WHERE ended AND cycles > 0;

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

CREATE VIEW indexable_knowledge_base (entity_id, version) AS
SELECT p.id, p.version FROM passage p JOIN document d ON d.id = p.document_id WHERE d.retired_at IS NULL;

-- The jobs and when each is due. A time that has passed while the box was off is caught up once.
CREATE TABLE job (
    name        text PRIMARY KEY,
    enabled     boolean NOT NULL DEFAULT true,
    next_run_at timestamptz,
    -- Somebody asks for a run now: {"by": …, "since": …, "until": …}.
    asked       jsonb
);

-- What one worker's ISO week was like, made from the sessions of that week.
CREATE TABLE worker_behavior (
    id          uuid PRIMARY KEY,
    worker_id   text NOT NULL,
    -- The Monday it begins with, in plant time.
    week        date NOT NULL,
    zone_id     text NOT NULL REFERENCES zone,
    metrics     jsonb NOT NULL,
    -- {"th": […], "en": […]}
    strengths   jsonb NOT NULL,
    points      jsonb NOT NULL,
    -- Of the sessions it was made from: while this is theirs, nothing has to be made anew.
    sources     text NOT NULL,
    checksum    text NOT NULL,
    -- Counts every change of what it says; the index is right when its point carries this number.
    version     integer NOT NULL DEFAULT 1,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (worker_id, week)
);

CREATE VIEW indexable_worker_behaviors (entity_id, version) AS SELECT id, version FROM worker_behavior;

-- A case that somebody changes by hand in SQL has to be indexed anew as well.
CREATE FUNCTION case_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$$;
CREATE TRIGGER case_changed BEFORE UPDATE ON cases FOR EACH ROW
WHEN (NEW.version = OLD.version AND
      (OLD.site_id, OLD.record_id, OLD.kind, OLD.status, OLD.type, OLD.severity, OLD.description, OLD.language,
       OLD.root_cause, OLD.resolution, OLD.outcome, OLD.zone_id, OLD.camera_id, OLD.worker_id, OLD.tags, OLD.occurred_at)
      IS DISTINCT FROM
      (NEW.site_id, NEW.record_id, NEW.kind, NEW.status, NEW.type, NEW.severity, NEW.description, NEW.language,
       NEW.root_cause, NEW.resolution, NEW.outcome, NEW.zone_id, NEW.camera_id, NEW.worker_id, NEW.tags, NEW.occurred_at))
EXECUTE FUNCTION case_changed();

CREATE VIEW indexable (collection, entity_id, version) AS
SELECT 'work_sequences', entity_id, version FROM indexable_work_sequences
UNION ALL SELECT 'anomaly_patterns', entity_id, version FROM indexable_anomaly_patterns
UNION ALL SELECT 'knowledge_base', entity_id, version FROM indexable_knowledge_base
UNION ALL SELECT 'worker_behaviors', entity_id, version FROM indexable_worker_behaviors
UNION ALL SELECT 'incident_reports', entity_id, version FROM indexable_incident_reports;

-- What the plant is told about a case. Written in the transaction that changes the case, kept until it was sent.
CREATE TABLE outbound (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    zone_id   text,
    record_id text NOT NULL,
    payload   jsonb NOT NULL,
    -- When the broker had acknowledged it.
    sent_at   timestamptz
);
CREATE INDEX outbound_due ON outbound (id) WHERE sent_at IS NULL;
CREATE INDEX outbound_at ON outbound (at);

-- Who is told over HTTP.
CREATE TABLE webhook (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name       text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,62}$'),
    url        text NOT NULL CHECK (length(url) BETWEEN 1 AND 2000),
    -- The key of the signature, in Base64.
    secret     text NOT NULL,
    -- Empty: every event.
    events     text[] NOT NULL DEFAULT '{}',
    -- What the admin has allowed in so many words: an address within the plant, and no encryption.
    internal   boolean NOT NULL DEFAULT false,
    plain      boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE webhook_delivery (
    webhook_id  uuid NOT NULL REFERENCES webhook ON DELETE CASCADE,
    outbound_id bigint NOT NULL REFERENCES outbound ON DELETE CASCADE,
    state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done', 'dead')),
    attempts    integer NOT NULL DEFAULT 0,
    -- Not before this time: pushed on by a claim (a lease) and by a failure (back-off).
    due_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    settled_at  timestamptz,
    last_error  text,
    PRIMARY KEY (webhook_id, outbound_id)
);
CREATE INDEX webhook_delivery_due ON webhook_delivery (due_at) WHERE state = 'pending';
CREATE INDEX webhook_delivery_event ON webhook_delivery (outbound_id);
