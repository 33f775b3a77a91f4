-- What fixed it.

-- name: fix_came_back
-- Of these closed cases, those whose problem came back: the same type in the same zone within so many days of closing.
-- A vague type names no problem, so a second case of it says nothing. Who said later that the fix held has seen it.
SELECT c.id FROM cases c
WHERE c.id = ANY(%(ids)s) AND c.type <> ALL(%(vague)s::text[])
  AND NOT (c.outcome = 'held' AND coalesce(c.outcome_by, 'appliance') <> 'appliance' AND c.outcome_at > c.closed_at)
  AND EXISTS (
    SELECT 1 FROM cases n
    WHERE n.zone_id = c.zone_id AND n.type = c.type AND n.id <> c.id AND n.site_id = c.site_id
      AND n.occurred_at > c.closed_at AND n.occurred_at <= c.closed_at + make_interval(days => %(days)s)
);

-- name: fix_history_start
-- When the history begins: what lies before it was not counted by anybody.
SELECT min(occurred_at) AS start FROM cases;
