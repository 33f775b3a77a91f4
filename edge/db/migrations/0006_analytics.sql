-- Sessions, work cycles, time logs, standard work, and what detectors remember and found.

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

-- Sessions and behaviours read the events of one worker.
CREATE INDEX event_worker ON event (worker_id, occurred_at) WHERE worker_id IS NOT NULL;

-- Sessions that are over and made at least one piece are sequences one can compare.
CREATE OR REPLACE VIEW indexable_work_sequences (entity_id, version) AS
SELECT id, version FROM work_session WHERE ended AND cycles > 0;
