-- What a coordinator must not lose: what it acknowledged, in the order in which it counts.

CREATE TABLE region (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    coordinator TEXT NOT NULL,
    region TEXT NOT NULL,
    bundle_sha256 TEXT NOT NULL,
    lineage TEXT NOT NULL,      -- drawn when this database was made
    created_at_s REAL NOT NULL  -- wall clock, seconds since 1970, as every `_at_s` here
) STRICT;

-- One row for each update and each merge of a peer's model. Every row with a version changed the model, and the model
-- is the rows in the order of their versions. Positions count over this table and `publication` together.
CREATE TABLE journal (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    version INTEGER CHECK (version > 0),  -- of the model that holds it; NULL: held by the arrival rule
    kind TEXT NOT NULL CHECK (kind IN ('update', 'merge')),
    sender TEXT NOT NULL,                 -- the device, or the peer
    sequence INTEGER NOT NULL,            -- the device's number; of a merge, the peer's publication
    base_number INTEGER NOT NULL,         -- version that the update started from; of a merge, the one before it
    weight REAL,                          -- what the payload, or the distance to the replica, is multiplied with
    age REAL,                             -- of the model that holds it
    steps INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    loss REAL NOT NULL,
    seconds_per_step REAL NOT NULL,
    staleness REAL NOT NULL,
    frame_bytes INTEGER NOT NULL,         -- of all frames that brought it
    received_at_s REAL NOT NULL,
    payload BLOB NOT NULL,                -- sparse vector, as received; of a merge empty: the replica says it
    CHECK ((version IS NULL) = (weight IS NULL) AND (version IS NULL) = (age IS NULL)),
    CHECK (kind = 'update' OR version IS NOT NULL)
) STRICT;

CREATE UNIQUE INDEX journal_version ON journal (version) WHERE version IS NOT NULL;
CREATE UNIQUE INDEX journal_update ON journal (sender, sequence) WHERE kind = 'update'; -- applied once, whatever happens

-- What coordinators published, this one included: replica and publication are the sums of these payloads.
CREATE TABLE publication (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    coordinator TEXT NOT NULL,
    lineage TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    whole INTEGER NOT NULL CHECK (whole IN (0, 1)), -- 1: the payload stands for itself, not on the number before
    epoch INTEGER NOT NULL,
    broadcast INTEGER NOT NULL,
    age REAL NOT NULL,
    payload BLOB NOT NULL,
    received_at_s REAL NOT NULL
) STRICT;

-- Outlives the rows of the journal: a repeat is known for one however old it is.
CREATE TABLE ledger (
    device TEXT PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    updates INTEGER NOT NULL,
    recent TEXT NOT NULL -- JSON: [[sequence, version, weight or null], ...], the last few
) STRICT, WITHOUT ROWID;

CREATE TABLE token (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL -- JSON
) STRICT;

-- Files that are whole and on disk. The journal is never cut in front of the oldest one.
CREATE TABLE checkpoint (
    version INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    written_at_s REAL NOT NULL
) STRICT;

CREATE TABLE evaluation (
    at_s REAL NOT NULL,
    version INTEGER NOT NULL,
    age REAL NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('regional', 'federated')),
    examples INTEGER NOT NULL,
    correct INTEGER NOT NULL,
    loss REAL NOT NULL
) STRICT;

CREATE TABLE telemetry (
    device TEXT PRIMARY KEY,
    at_s REAL NOT NULL,
    telemetry TEXT NOT NULL -- JSON, as the device sent it
) STRICT, WITHOUT ROWID;

CREATE TABLE traffic (
    party TEXT NOT NULL CHECK (party IN ('device', 'peer')),
    name TEXT NOT NULL,
    sent_bytes INTEGER NOT NULL,
    received_bytes INTEGER NOT NULL,
    PRIMARY KEY (party, name)
) STRICT, WITHOUT ROWID;
