-- name: session_add
INSERT INTO login_session (token_hash, account_id, expires_at)
VALUES (%(token_hash)s, %(account_id)s, clock_timestamp() + make_interval(hours => %(hours)s));

-- name: session_find
-- The account behind a session that is neither idle for too long nor past its end.
SELECT a.id, a.username, a.role, s.last_seen_at < clock_timestamp() - interval '1 minute' AS touch
FROM login_session s JOIN account a ON a.id = s.account_id
WHERE s.token_hash = %(token_hash)s AND s.expires_at > clock_timestamp()
  AND s.last_seen_at > clock_timestamp() - make_interval(mins => %(idle_minutes)s) AND NOT a.disabled;

-- name: session_touch
UPDATE login_session SET last_seen_at = clock_timestamp() WHERE token_hash = %(token_hash)s;

-- name: session_drop
DELETE FROM login_session WHERE token_hash = %(token_hash)s;

-- name: session_drop_account
-- Every session of an account, except one that may stay.
DELETE FROM login_session WHERE account_id = %(account_id)s AND token_hash IS DISTINCT FROM %(keep)s::bytea;
