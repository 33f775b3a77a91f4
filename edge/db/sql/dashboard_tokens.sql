-- name: token_add
-- A new token under an old name replaces it.
INSERT INTO api_token (token_hash, name, scopes, expires_at)
VALUES (%(token_hash)s, %(name)s, %(scopes)s, clock_timestamp() + make_interval(days => %(days)s))
ON CONFLICT (name) DO UPDATE SET token_hash = excluded.token_hash, scopes = excluded.scopes,
    expires_at = excluded.expires_at, created_at = clock_timestamp(), last_used_at = NULL;

-- name: token_find
SELECT name, scopes, last_used_at IS NULL OR last_used_at < clock_timestamp() - interval '1 minute' AS touch
FROM api_token WHERE token_hash = %(token_hash)s AND expires_at > clock_timestamp();

-- name: token_touch
UPDATE api_token SET last_used_at = clock_timestamp() WHERE token_hash = %(token_hash)s;

-- name: token_list
SELECT name, scopes, created_at, expires_at, last_used_at, expires_at < clock_timestamp() AS expired
FROM api_token ORDER BY name;

-- name: token_drop
DELETE FROM api_token WHERE name = %(name)s;
