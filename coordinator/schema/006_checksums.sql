-- A checksum in every row that a model comes from: SQLite has none, and a bit that rots in a value is a value.
-- See skerry/row_checksum.py. What is only reported (evaluations, telemetry, traffic) goes without.
--
-- With it come what the journal says of buffers, of devices that change regions and of the guard, and what the guard
-- remembers of each device's updates: all in one script, so that a journal, which may be large, is copied once.

CREATE TABLE conduct (
    device TEXT PRIMARY KEY,
    line TEXT NOT NULL,  -- JSON
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(device, line)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE region_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    coordinator TEXT NOT NULL,
    region TEXT NOT NULL,
    bundle_sha256 TEXT NOT NULL,
    lineage TEXT NOT NULL,     -- drawn when this database was made
    created_at_s REAL NOT NULL, -- wall clock, seconds since 1970, as every `_at_s` here
    crc INTEGER NOT NULL GENERATED ALWAYS AS (
        row_crc(id, coordinator, region, bundle_sha256, lineage, created_at_s)
    ) STORED
) STRICT;

INSERT INTO region_checked (id, coordinator, region, bundle_sha256, lineage, created_at_s)
SELECT id, coordinator, region, bundle_sha256, lineage, created_at_s FROM region;

DROP TABLE region;

ALTER TABLE region_checked RENAME TO region;

CREATE TABLE journal_checked (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    version INTEGER CHECK (version > 0),  -- of the model that holds it; NULL: held by the arrival rule
    kind TEXT NOT NULL CHECK (kind IN ('update', 'model', 'merge', 'taken_back')),
    sender TEXT NOT NULL,                 -- the device, or the peer
    sequence INTEGER NOT NULL,            -- the device's number; of a merge, the peer's publication
    base_number INTEGER NOT NULL,         -- version that the update started from; of anything else, the one before it
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
    entries TEXT NOT NULL CHECK (entries IN ('all', 'published')), -- that a merge moves
    buffer_version INTEGER CHECK (buffer_version >= version), -- the updates up to it change the model together
    trim REAL CHECK ((trim IS NULL) = (buffer_version IS NULL)), -- share left out at either end of their mean
    base_lineage TEXT NOT NULL,           -- of the base, where it is another region's
    factor REAL NOT NULL,                 -- of the guard; where there is a weight, it is in it
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(
        position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss,
        seconds_per_step, staleness, frame_bytes, received_at_s, payload, entries, buffer_version,
        trim, base_lineage, factor
    )) STORED,
    CHECK ((version IS NULL) = (weight IS NULL) AND (version IS NULL) = (age IS NULL)),
    CHECK (kind IN ('update', 'model') OR version IS NOT NULL)
) STRICT;

INSERT INTO journal_checked (
    position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss,
    seconds_per_step, staleness, frame_bytes, received_at_s, payload, entries, base_lineage, factor
)
SELECT
    position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss,
    seconds_per_step, staleness, frame_bytes, received_at_s, payload, entries, '', 1.0
FROM journal ORDER BY position;

DROP TABLE journal;

ALTER TABLE journal_checked RENAME TO journal;

CREATE UNIQUE INDEX journal_version ON journal (version) WHERE version IS NOT NULL;
-- Applied once, and taken back once, whatever happens.
CREATE UNIQUE INDEX journal_update ON journal (sender, sequence) WHERE kind IN ('update', 'model');
CREATE UNIQUE INDEX journal_taken_back ON journal (sender, sequence) WHERE kind = 'taken_back';

CREATE TABLE publication_checked (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    coordinator TEXT NOT NULL,
    lineage TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number > 0),
    whole INTEGER NOT NULL CHECK (whole IN (0, 1)), -- 1: the payload stands for itself, not on the number before
    epoch INTEGER NOT NULL,
    broadcast INTEGER NOT NULL,
    age REAL NOT NULL,
    payload BLOB NOT NULL,
    received_at_s REAL NOT NULL,
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(
        position, coordinator, lineage, number, whole, epoch, broadcast, age, payload, received_at_s
    )) STORED
) STRICT;

INSERT INTO publication_checked (
    position, coordinator, lineage, number, whole, epoch, broadcast, age, payload, received_at_s
)
SELECT position, coordinator, lineage, number, whole, epoch, broadcast, age, payload, received_at_s FROM publication;

DROP TABLE publication;

ALTER TABLE publication_checked RENAME TO publication;

CREATE TABLE ledger_checked (
    device TEXT PRIMARY KEY,
    last_sequence INTEGER NOT NULL,
    updates INTEGER NOT NULL,
    recent TEXT NOT NULL,  -- JSON: [[sequence, version, weight or null], ...], the last few
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(device, last_sequence, updates, recent)) STORED
) STRICT, WITHOUT ROWID;

INSERT INTO ledger_checked (device, last_sequence, updates, recent)
SELECT device, last_sequence, updates, recent FROM ledger;

DROP TABLE ledger;

ALTER TABLE ledger_checked RENAME TO ledger;

CREATE TABLE token_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    state TEXT NOT NULL,  -- JSON
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(id, state)) STORED
) STRICT;

INSERT INTO token_checked (id, state)
SELECT id, state FROM token;

DROP TABLE token;

ALTER TABLE token_checked RENAME TO token;

CREATE TABLE rule_state_checked (
    rule TEXT PRIMARY KEY,
    state TEXT NOT NULL,  -- JSON that names its type
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(rule, state)) STORED
) STRICT, WITHOUT ROWID;

INSERT INTO rule_state_checked (rule, state)
SELECT rule, state FROM rule_state;

DROP TABLE rule_state;

ALTER TABLE rule_state_checked RENAME TO rule_state;

CREATE TABLE checkpoint_checked (
    version INTEGER PRIMARY KEY,
    position INTEGER NOT NULL,
    written_at_s REAL NOT NULL,
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(version, position, written_at_s)) STORED
) STRICT;

INSERT INTO checkpoint_checked (version, position, written_at_s)
SELECT version, position, written_at_s FROM checkpoint;

DROP TABLE checkpoint;

ALTER TABLE checkpoint_checked RENAME TO checkpoint;
