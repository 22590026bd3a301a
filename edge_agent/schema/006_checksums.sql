-- A checksum in every row: cards rot, SQLite has none, and a bit that flips in a value is a value.
-- See skerry/row_checksum.py.
--
-- With it comes what another region needs to know of an update that was not answered where it was made.

CREATE TABLE agent_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_sequence INTEGER NOT NULL CHECK (last_sequence >= 0), -- highest number given to an update, ever
    uploads INTEGER NOT NULL CHECK (uploads >= 0),             -- updates of this task that were accepted
    events INTEGER NOT NULL CHECK (events >= 0),               -- orders what happened to the residual
    task BLOB,                                                 -- the last Welcome, msgpack; NULL: never connected
    steps INTEGER NOT NULL DEFAULT 0 CHECK (steps >= 0),  -- local steps of this task that are in updates
    moves INTEGER NOT NULL DEFAULT 0 CHECK (moves >= 0),  -- how often the device has changed coordinators
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(id, last_sequence, uploads, events, task, steps, moves)) STORED
) STRICT;

INSERT INTO agent_checked (id, last_sequence, uploads, events, task, steps)
SELECT id, last_sequence, uploads, events, task, steps FROM agent;

DROP TABLE agent;

ALTER TABLE agent_checked RENAME TO agent;

CREATE TABLE residual_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    event INTEGER NOT NULL,
    data BLOB NOT NULL, -- float32, little-endian
    learning_rate REAL NOT NULL CHECK (learning_rate >= 0),  -- of the newest update taken out of it
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(id, event, data, learning_rate)) STORED
) STRICT;

INSERT INTO residual_checked (id, event, data, learning_rate)
SELECT id, event, data, learning_rate FROM residual;

DROP TABLE residual;

ALTER TABLE residual_checked RENAME TO residual;

CREATE TABLE outbox_checked (
    sequence INTEGER PRIMARY KEY CHECK (sequence > 0),
    lineage TEXT NOT NULL,
    number INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    examples INTEGER NOT NULL,
    loss REAL NOT NULL,
    seconds_per_step REAL NOT NULL,
    payload BLOB NOT NULL,                 -- sparse vector, as it goes over the wire
    event INTEGER NOT NULL,                -- when it was taken out of the residual
    settled_event INTEGER,                 -- when it was answered; NULL: not yet
    settled_weight REAL,                   -- what the coordinator applied of it; NULL: nothing returns
    learning_rate REAL NOT NULL CHECK (learning_rate >= 0), -- the highest of its steps, schedule included
    whole INTEGER NOT NULL CHECK (whole IN (0, 1)),  -- 1: the payload is a model
    base_age REAL,                         -- of the model that it started from; NULL: not known
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(
        sequence, lineage, number, steps, examples, loss, seconds_per_step, payload, event, settled_event,
        settled_weight, learning_rate, whole, base_age
    )) STORED
) STRICT;

INSERT INTO outbox_checked (
    sequence, lineage, number, steps, examples, loss, seconds_per_step, payload, event, settled_event,
    settled_weight, learning_rate, whole
)
SELECT
    sequence, lineage, number, steps, examples, loss, seconds_per_step, payload, event, settled_event,
    settled_weight, learning_rate, whole
FROM outbox ORDER BY sequence;

DROP TABLE outbox;

ALTER TABLE outbox_checked RENAME TO outbox;

CREATE TABLE model_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    lineage TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL,  -- float32, little-endian
    age REAL,            -- NULL: not known
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(id, lineage, number, data, age)) STORED
) STRICT;

INSERT INTO model_checked (id, lineage, number, data)
SELECT id, lineage, number, data FROM model;

DROP TABLE model;

ALTER TABLE model_checked RENAME TO model;

CREATE TABLE head_checked (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    lineage TEXT NOT NULL,  -- of the regional model that it was tuned on
    number INTEGER NOT NULL,
    tensors TEXT NOT NULL,  -- names, one a line, in the order in which they lie in the model
    data BLOB NOT NULL,  -- float32, little-endian
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(id, lineage, number, tensors, data)) STORED
) STRICT;

INSERT INTO head_checked (id, lineage, number, tensors, data)
SELECT id, lineage, number, tensors, data FROM head;

DROP TABLE head;

ALTER TABLE head_checked RENAME TO head;
