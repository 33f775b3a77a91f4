-- What people said about results.

-- name: feedback_add
INSERT INTO feedback (actor, topic, said, case_id, for_case_id, question, question_hash)
VALUES (%(actor)s, %(topic)s, %(said)s, %(case_id)s, %(for_case_id)s, %(question)s, %(question_hash)s)
RETURNING id, at;

-- name: feedback_of_cases
-- The standing words about the same problem that touch any of these cases: of each person the latest about each pair.
SELECT * FROM (
    SELECT DISTINCT ON (f.actor, least(f.case_id, f.for_case_id), greatest(f.case_id, f.for_case_id), f.question_hash)
        f.actor, f.said, f.case_id, f.for_case_id, f.question,
        c.description AS case_text, o.description AS for_text
    FROM feedback f JOIN cases c ON c.id = f.case_id LEFT JOIN cases o ON o.id = f.for_case_id
    WHERE f.topic = 'problem' AND (f.case_id = ANY(%(ids)s) OR f.for_case_id = ANY(%(ids)s))
    ORDER BY f.actor, least(f.case_id, f.for_case_id), greatest(f.case_id, f.for_case_id), f.question_hash, f.id DESC
) standing WHERE said <> 'withdrawn' LIMIT %(limit)s;

-- name: feedback_of_fixes
-- The standing words about fixes of two of these cases being one.
SELECT * FROM (
    SELECT DISTINCT ON (actor, least(case_id, for_case_id), greatest(case_id, for_case_id))
        actor, said, case_id, for_case_id
    FROM feedback WHERE topic = 'fix' AND case_id = ANY(%(ids)s) AND for_case_id = ANY(%(ids)s)
    ORDER BY actor, least(case_id, for_case_id), greatest(case_id, for_case_id), id DESC
) standing WHERE said <> 'withdrawn';

-- name: feedback_standing
-- Every pair people have judged, latest first: to learn from, a pair once with how many say what.
SELECT case_id, for_case_id, max(question) AS question,
       count(*) FILTER (WHERE said IN ('same', 'helped')) AS same, count(*) FILTER (WHERE said = 'different') AS different
FROM (
    SELECT DISTINCT ON (actor, least(case_id, for_case_id), greatest(case_id, for_case_id), question_hash)
        actor, said, least(case_id, for_case_id) AS case_id,
        CASE WHEN for_case_id IS NULL THEN NULL ELSE greatest(case_id, for_case_id) END AS for_case_id,
        question, question_hash, at
    FROM feedback WHERE topic = 'problem'
    ORDER BY actor, least(case_id, for_case_id), greatest(case_id, for_case_id), question_hash, id DESC
) standing
WHERE said <> 'withdrawn'
GROUP BY case_id, for_case_id, question_hash
ORDER BY max(at) DESC LIMIT %(limit)s;

-- name: feedback_list
-- What was said, latest first; words taken back too.
SELECT f.id, f.at, f.actor, f.topic, f.said, c.record_id AS id_of, o.record_id AS for_id, f.question
FROM feedback f JOIN cases c ON c.id = f.case_id LEFT JOIN cases o ON o.id = f.for_case_id
WHERE (%(case_id)s::uuid IS NULL OR f.case_id = %(case_id)s OR f.for_case_id = %(case_id)s)
  AND (%(question_hash)s::bytea IS NULL OR f.question_hash = %(question_hash)s)
  AND (%(actor)s::text IS NULL OR f.actor = %(actor)s)
  AND (%(before)s::bigint IS NULL OR f.id < %(before)s)
ORDER BY f.id DESC LIMIT %(limit)s;

-- name: feedback_mine
-- What this person's standing word about each of these results is.
SELECT * FROM (
    SELECT DISTINCT ON (least(case_id, for_case_id), greatest(case_id, for_case_id)) case_id, for_case_id, said
    FROM feedback
    WHERE topic = 'problem' AND actor = %(actor)s AND (
        (%(for_case_id)s::uuid IS NOT NULL
         AND ((for_case_id = %(for_case_id)s AND case_id = ANY(%(ids)s))
              OR (case_id = %(for_case_id)s AND for_case_id = ANY(%(ids)s))))
        OR (question_hash = %(question_hash)s::bytea AND case_id = ANY(%(ids)s)))
    ORDER BY least(case_id, for_case_id), greatest(case_id, for_case_id), id DESC
) standing WHERE said <> 'withdrawn';

-- name: calibration_put
INSERT INTO calibration (fingerprint, origin, curve, figures)
VALUES (%(fingerprint)s, %(origin)s, %(curve)s, %(figures)s) RETURNING id, at;

-- name: calibration_latest
SELECT id, at, fingerprint, origin, curve, figures FROM calibration
WHERE fingerprint = %(fingerprint)s AND origin = ANY(%(origins)s) ORDER BY id DESC LIMIT 1;
