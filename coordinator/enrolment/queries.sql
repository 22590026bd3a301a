-- Every statement that enrolment runs on its database, by name. The tables: schema/.

-- name: put_join_token
INSERT INTO join_token
    (identifier, secret_sha256, role, region, name, uses, used, created_at_s, expires_at_s, revoked, addresses)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (identifier) DO UPDATE SET used = excluded.used, revoked = excluded.revoked;

-- name: forget_join_token
DELETE FROM join_token WHERE identifier = ?;

-- name: join_tokens
SELECT identifier, secret_sha256, role, region, name, uses, used, created_at_s, expires_at_s, revoked, addresses
FROM join_token;

-- name: put_party
INSERT OR REPLACE INTO party
    (role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, addresses, answer)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: put_told_party
INSERT INTO party
    (role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, addresses, answer)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, x'')
ON CONFLICT (role, name, key) DO UPDATE SET enrolled_at_s = excluded.enrolled_at_s;

-- name: put_title
UPDATE party SET title = ? WHERE role = ? AND name = ? AND key = ?;

-- name: parties
SELECT role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, addresses FROM party;

-- name: answer
SELECT answer FROM party WHERE role = ? AND name = ? AND key = ?;

-- name: put_revocation
INSERT OR IGNORE INTO revocation (role, name, key, learnt_at_s) VALUES (?, ?, ?, ?);

-- name: revocations
SELECT role, name, key FROM revocation;
