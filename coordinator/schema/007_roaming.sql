-- Updates of devices that change regions: of another region's base, and taken back where two regions took the same one.

CREATE TABLE journal_of_roaming_devices (
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
    entries TEXT NOT NULL DEFAULT 'all' CHECK (entries IN ('all', 'published')), -- of a merge
    buffer_version INTEGER CHECK (buffer_version >= version),
    trim REAL CHECK ((trim IS NULL) = (buffer_version IS NULL)), -- share left out at either end
    base_lineage TEXT NOT NULL DEFAULT '', -- of the base, where it is another region's
    CHECK ((version IS NULL) = (weight IS NULL) AND (version IS NULL) = (age IS NULL)),
    CHECK (kind IN ('update', 'model') OR version IS NOT NULL)
) STRICT;

INSERT INTO journal_of_roaming_devices SELECT *, '' FROM journal ORDER BY position;

DROP TABLE journal;

ALTER TABLE journal_of_roaming_devices RENAME TO journal;

CREATE UNIQUE INDEX journal_version ON journal (version) WHERE version IS NOT NULL;
-- Applied once, and taken back once, whatever happens.
CREATE UNIQUE INDEX journal_update ON journal (sender, sequence) WHERE kind IN ('update', 'model');
CREATE UNIQUE INDEX journal_taken_back ON journal (sender, sequence) WHERE kind = 'taken_back';
