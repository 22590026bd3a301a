-- Under some recipes an update is the model that a device trained: the region's is moved towards it by `weight`.

CREATE TABLE journal_of_models_too (
    position INTEGER PRIMARY KEY CHECK (position > 0),
    version INTEGER CHECK (version > 0),  -- of the model that holds it; NULL: held by the arrival rule
    kind TEXT NOT NULL CHECK (kind IN ('update', 'model', 'merge')),
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
    CHECK (kind != 'merge' OR version IS NOT NULL)
) STRICT;

INSERT INTO journal_of_models_too SELECT * FROM journal ORDER BY position;

DROP TABLE journal;

ALTER TABLE journal_of_models_too RENAME TO journal;

CREATE UNIQUE INDEX journal_version ON journal (version) WHERE version IS NOT NULL;
CREATE UNIQUE INDEX journal_update ON journal (sender, sequence) WHERE kind != 'merge'; -- applied once, whatever happens
