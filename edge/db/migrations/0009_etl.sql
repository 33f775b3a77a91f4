-- When each job runs next, what each worker's week was like, and versions that rise whoever changes a case.

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

CREATE OR REPLACE VIEW indexable_worker_behaviors (entity_id, version) AS SELECT id, version FROM worker_behavior;

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
