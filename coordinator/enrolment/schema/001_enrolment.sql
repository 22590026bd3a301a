-- Whom this coordinator has let in, and who is shut out. A party is known by its public key from one certificate to the
-- next. Every `_at_s` is wall clock, seconds since 1970.

CREATE TABLE join_token (
    identifier TEXT PRIMARY KEY,   -- 16 hex digits
    secret_sha256 BLOB NOT NULL,   -- the secret itself is nowhere
    role TEXT NOT NULL CHECK (role IN ('agent', 'coordinator')),
    region TEXT NOT NULL,
    name TEXT,                     -- of the one device that it is for; NULL: any
    uses INTEGER NOT NULL CHECK (uses > 0),
    used INTEGER NOT NULL CHECK (used BETWEEN 0 AND uses),
    created_at_s REAL NOT NULL,
    expires_at_s REAL NOT NULL,
    revoked INTEGER NOT NULL CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE party (
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
    PRIMARY KEY (role, name, key)
) STRICT, WITHOUT ROWID;

-- Only ever grows.
CREATE TABLE revocation (
    role TEXT NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,
    learnt_at_s REAL NOT NULL,
    PRIMARY KEY (role, name, key)
) STRICT, WITHOUT ROWID;
