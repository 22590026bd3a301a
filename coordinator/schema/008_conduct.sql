-- What the guard remembers of each device's updates, and what it makes of one that waits for the arrival rule.

CREATE TABLE conduct (
    device TEXT PRIMARY KEY,
    line TEXT NOT NULL -- JSON
) STRICT, WITHOUT ROWID;

ALTER TABLE journal ADD COLUMN factor REAL NOT NULL DEFAULT 1.0; -- of the guard; where there is a weight, it is in it
