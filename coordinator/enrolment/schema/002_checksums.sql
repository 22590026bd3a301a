-- A checksum in every row: SQLite has none, and a bit that rots could let in again who was shut out.
-- See skerry/row_checksum.py.

CREATE TABLE join_token_checked (
    identifier TEXT PRIMARY KEY,   -- 16 hex digits
    secret_sha256 BLOB NOT NULL,   -- the secret itself is nowhere
    role TEXT NOT NULL CHECK (role IN ('agent', 'coordinator')),
    region TEXT NOT NULL,
    name TEXT,                     -- of the one device that it is for; NULL: any
    uses INTEGER NOT NULL CHECK (uses > 0),
    used INTEGER NOT NULL CHECK (used BETWEEN 0 AND uses),
    created_at_s REAL NOT NULL,
    expires_at_s REAL NOT NULL,
    revoked INTEGER NOT NULL CHECK (revoked IN (0, 1)),
    addresses TEXT NOT NULL,       -- that its coordinator gets, with a blank between them; '': those that it asks for
    crc INTEGER NOT NULL GENERATED ALWAYS AS (
        row_crc(identifier, secret_sha256, role, region, name, uses, used, created_at_s, expires_at_s, revoked, addresses)
    ) STORED
) STRICT, WITHOUT ROWID;

INSERT INTO join_token_checked
    (identifier, secret_sha256, role, region, name, uses, used, created_at_s, expires_at_s, revoked, addresses)
SELECT identifier, secret_sha256, role, region, name, uses, used, created_at_s, expires_at_s, revoked, ''
FROM join_token;

DROP TABLE join_token;

ALTER TABLE join_token_checked RENAME TO join_token;

CREATE TABLE party_checked (
    role TEXT NOT NULL CHECK (role IN ('agent', 'coordinator', 'admin')),
    name TEXT NOT NULL,
    key TEXT NOT NULL,             -- SHA-256 of the public key, hex
    region TEXT NOT NULL,
    title TEXT NOT NULL,           -- what people call it
    join_token TEXT NOT NULL,      -- identifier; '' where it came without one
    enrolled_at_s REAL NOT NULL,
    expires_at_s REAL NOT NULL,    -- of the newest certificate
    serial TEXT NOT NULL,          -- of it, hex
    answer BLOB NOT NULL,          -- the frame that brought it, for one whose answer was lost
    addresses TEXT NOT NULL,       -- of a coordinator, in its certificate, with a blank between them; '': not known here
    crc INTEGER NOT NULL GENERATED ALWAYS AS (
        row_crc(role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, answer, addresses)
    ) STORED,
    PRIMARY KEY (role, name, key)
) STRICT, WITHOUT ROWID;

INSERT INTO party_checked
    (role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, answer, addresses)
SELECT role, name, key, region, title, join_token, enrolled_at_s, expires_at_s, serial, answer, '' FROM party;

DROP TABLE party;

ALTER TABLE party_checked RENAME TO party;

-- Only ever grows.
CREATE TABLE revocation_checked (
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    learnt_at_s REAL NOT NULL,
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(role, name, key, learnt_at_s)) STORED,
    PRIMARY KEY (role, name, key)
) STRICT, WITHOUT ROWID;

INSERT INTO revocation_checked (role, name, key, learnt_at_s) SELECT role, name, key, learnt_at_s FROM revocation;

DROP TABLE revocation;

ALTER TABLE revocation_checked RENAME TO revocation;
