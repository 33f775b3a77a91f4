-- name: sequence_gaps
-- How many numbers of each source's own count never came, among its events since a time: what a camera without a spool
-- has lost. Disorder and late events do not matter. A source that starts counting anew uses numbers a second time: the
-- nth use of a number belongs to its nth run, and each run is counted from its lowest number to its highest. What lies
-- in quarantine was not understood, so its number counts as missing until it is replayed.
WITH used AS (
    SELECT source, sequence, row_number() OVER (PARTITION BY source, sequence) AS run
    FROM event WHERE sequence IS NOT NULL AND occurred_at >= %(since)s
), counted AS (
    SELECT source, max(sequence) - min(sequence) + 1 - count(*) AS missing FROM used GROUP BY source, run
)
SELECT source, sum(missing)::bigint AS gaps FROM counted GROUP BY source ORDER BY source;
