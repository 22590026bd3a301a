-- Predictions of a task with squared errors are neither right nor wrong.

CREATE TABLE evaluation_with_or_without_accuracy (
    at_s REAL NOT NULL,
    version INTEGER NOT NULL,
    age REAL NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('regional', 'federated')),
    examples INTEGER NOT NULL,
    correct INTEGER,  -- NULL: there is no accuracy
    loss REAL NOT NULL
) STRICT;

INSERT INTO evaluation_with_or_without_accuracy
SELECT at_s, version, age, kind, examples, correct, loss FROM evaluation ORDER BY rowid;

DROP TABLE evaluation;

ALTER TABLE evaluation_with_or_without_accuracy RENAME TO evaluation;
