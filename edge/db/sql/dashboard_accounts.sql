-- name: account_count
SELECT count(*) FROM account;

-- name: account_add
-- Returns nothing when the name is taken.
INSERT INTO account (username, password_hash, role) VALUES (%(username)s, %(password_hash)s, %(role)s)
ON CONFLICT (username) DO NOTHING RETURNING id;

-- name: account_get
SELECT id, username, password_hash, role, disabled FROM account WHERE username = %(username)s;

-- name: account_list
SELECT a.username, a.role, a.disabled, a.created_at,
    (SELECT max(s.last_seen_at) FROM login_session s WHERE s.account_id = a.id) AS last_seen_at
FROM account a ORDER BY a.username;

-- name: account_set_password
UPDATE account SET password_hash = %(password_hash)s WHERE username = %(username)s RETURNING id;

-- name: account_rehash
-- A newer cost for the same password; not over a password that was changed meanwhile.
UPDATE account SET password_hash = %(password_hash)s WHERE id = %(id)s AND password_hash = %(old)s;

-- name: account_set_disabled
UPDATE account SET disabled = %(disabled)s WHERE username = %(username)s RETURNING id;

-- name: login_try
-- Written before the password is looked at, so that tries made at the same moment count each other.
INSERT INTO login_failure (username, address) VALUES (%(username)s, %(address)s);

-- name: login_tries
SELECT count(*) FILTER (WHERE username = %(username)s AND address = %(address)s) AS both,
    count(*) FILTER (WHERE username = %(username)s) AS by_name,
    count(*) FILTER (WHERE address = %(address)s) AS by_address
FROM login_failure
WHERE at > clock_timestamp() - make_interval(mins => %(minutes)s)
  AND (username = %(username)s OR address = %(address)s);

-- name: login_tries_forget
DELETE FROM login_failure WHERE username = %(username)s AND address = %(address)s;
