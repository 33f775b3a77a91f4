-- What time makes of a case (overdue, escalated, its fix held or not), and what goes out about cases.
ALTER TABLE cases
    -- Who says whether the fix held: 'appliance', or a person, whose word stays. NULL: nobody yet.
    ADD COLUMN outcome_by text,
    ADD COLUMN outcome_at timestamptz,
    -- The case in which the problem came back.
    ADD COLUMN recurred_case uuid REFERENCES cases ON DELETE SET NULL,
    -- Since when somebody should take it, when that became too long, and when it was escalated for that.
    ADD COLUMN waiting_since timestamptz NOT NULL DEFAULT clock_timestamp(),
    ADD COLUMN overdue_at timestamptz,
    ADD COLUMN escalated_at timestamptz;
CREATE INDEX cases_watched ON cases (closed_at) WHERE status = 'closed' AND origin <> 'import'
    AND (outcome_by IS NULL OR (outcome_by = 'appliance' AND outcome <> 'recurred'));
CREATE INDEX cases_recurred ON cases (recurred_case) WHERE recurred_case IS NOT NULL;

-- How alike the search judged them, in its words. NULL: found before this was kept.
ALTER TABLE case_match ADD COLUMN band text;

-- A view keeps the columns its table had when it was made.
DROP VIEW case_row;
CREATE VIEW case_row AS
SELECT c.*, r.record_id AS recurred_as,
       z.area_id, z.line, z.cell, z.name_th AS zone_th, z.name_en AS zone_en,
       a.name_th AS area_th, a.name_en AS area_en
FROM cases c
LEFT JOIN cases r ON r.id = c.recurred_case
LEFT JOIN zone z ON z.id = c.zone_id
LEFT JOIN area a ON a.site_id = z.site_id AND a.id = z.area_id;

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

-- What people have said by now.
UPDATE cases SET outcome_by = closed_by, outcome_at = closed_at
WHERE status = 'closed' AND outcome <> 'unknown' AND closed_by IS NOT NULL;
