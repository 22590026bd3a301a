-- What the guard remembers of each device's updates, and what it makes of one that waits for the arrival rule.

CREATE TABLE conduct (
    device TEXT PRIMARY KEY,
    line TEXT NOT NULL,  -- JSON
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(device, line)) STORED
) STRICT, WITHOUT ROWID;

CREATE TABLE journal_of_guarded_devices (
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

INSERT INTO journal_of_guarded_devices (
    position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss,
    seconds_per_step, staleness, frame_bytes, received_at_s, payload, entries, buffer_version,
    trim, base_lineage, factor
)
SELECT
    position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss,
    seconds_per_step, staleness, frame_bytes, received_at_s, payload, entries, buffer_version,
    trim, base_lineage, 1.0
FROM journal ORDER BY position;

DROP TABLE journal;

ALTER TABLE journal_of_guarded_devices RENAME TO journal;

CREATE UNIQUE INDEX journal_version ON journal (version) WHERE version IS NOT NULL;
-- Applied once, and taken back once, whatever happens.
CREATE UNIQUE INDEX journal_update ON journal (sender, sequence) WHERE kind IN ('update', 'model');
CREATE UNIQUE INDEX journal_taken_back ON journal (sender, sequence) WHERE kind = 'taken_back';
