-- What fixed it: did the same problem come back in the same place soon after a case was closed?
CREATE INDEX cases_again ON cases (zone_id, type, occurred_at);
