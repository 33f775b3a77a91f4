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
