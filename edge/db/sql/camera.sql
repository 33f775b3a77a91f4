-- name: camera_zone
SELECT zone_id FROM camera WHERE id = %(id)s;

-- name: case_of_review
-- The case that an update of this review has made or joined; no review lasts longer than a day.
SELECT ce.case_id FROM event e JOIN case_event ce USING (inbox_id)
WHERE e.source = %(source)s AND e.kind = 'review' AND e.body ->> 'review' = %(review)s
  AND e.occurred_at BETWEEN %(at)s::timestamptz - interval '1 day' AND %(at)s::timestamptz + interval '1 day'
ORDER BY e.inbox_id LIMIT 1;

-- name: cameras
SELECT id, zone_id FROM camera ORDER BY id;

-- name: review_state
-- Whether what a camera's review tells of goes on: its end was reported, or nothing was heard of it for so long that
-- nothing more will come (a recorder that restarts closes its reviews without a word).
SELECT CASE WHEN bool_or(e.body ->> 'update' IN ('end', 'genai')) THEN 'ended'
            WHEN max(i.received_at) < clock_timestamp() - make_interval(mins => %(minutes)s) THEN 'unheard'
            ELSE 'going_on' END AS state
FROM case_event ce JOIN event e USING (inbox_id) JOIN inbox i ON i.id = e.inbox_id
WHERE ce.case_id = %(id)s AND e.kind = 'review'
GROUP BY e.source, e.body ->> 'review' ORDER BY max(e.occurred_at) DESC LIMIT 1;
