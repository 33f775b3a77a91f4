-- name: job_lock
-- A job runs once at a time, whichever process starts it: the lock lasts as long as the transaction that took it.
SELECT pg_try_advisory_xact_lock(7013442, hashtext(%(job)s));

-- name: job_started
INSERT INTO job_run (job, details) VALUES (%(job)s, %(details)s) RETURNING id;

-- name: job_progress
UPDATE job_run SET details = details || %(details)s WHERE id = %(id)s;

-- name: job_finished
UPDATE job_run SET finished_at = clock_timestamp(), details = details || %(details)s, error = %(error)s WHERE id = %(id)s;

-- name: job_cut_off
-- Only for whoever holds the job's lock: a run without an end was cut off then.
UPDATE job_run SET finished_at = clock_timestamp(), error = 'The process ended before this run did.'
WHERE job = %(job)s AND finished_at IS NULL;

-- name: job_last
-- The latest start of each job that ended well.
SELECT job, max(started_at) AS started_at FROM job_run WHERE finished_at IS NOT NULL AND error IS NULL GROUP BY job;

-- name: job_runs
SELECT id, job, started_at, finished_at, details, error FROM job_run ORDER BY started_at DESC, id DESC LIMIT %(limit)s;

-- name: jobs
-- Every job with its next time and its latest run.
SELECT j.name, j.enabled, j.next_run_at, j.asked, r.started_at, r.finished_at, r.details, r.error
FROM job j
LEFT JOIN LATERAL (SELECT * FROM job_run WHERE job = j.name ORDER BY started_at DESC, id DESC LIMIT 1) r ON true
ORDER BY j.name;

-- name: job_next
INSERT INTO job (name, next_run_at) VALUES (%(name)s, %(at)s)
ON CONFLICT (name) DO UPDATE SET next_run_at = excluded.next_run_at;

-- name: job_forget
-- Jobs that this version has no more.
DELETE FROM job WHERE name <> ALL(%(names)s);

-- name: job_enable
UPDATE job SET enabled = %(enabled)s WHERE name = %(name)s;

-- name: job_ask
UPDATE job SET asked = %(asked)s WHERE name = %(name)s;

-- name: job_asked
SELECT name, asked FROM job WHERE asked IS NOT NULL ORDER BY name;

-- name: job_answered
-- Unless somebody asked for something else meanwhile.
UPDATE job SET asked = NULL WHERE name = %(name)s AND asked = %(asked)s;

-- name: job_known
SELECT name, enabled, next_run_at FROM job;

-- name: job_enabled
SELECT enabled FROM job WHERE name = %(name)s;

-- name: job_purge
DELETE FROM job_run WHERE started_at < clock_timestamp() - make_interval(days => %(days)s);

-- name: session_purge
DELETE FROM login_session WHERE expires_at < clock_timestamp();

-- name: login_failure_purge
DELETE FROM login_failure WHERE at < clock_timestamp() - make_interval(days => %(days)s);
