-- What the agent must not lose: its sequence numbers, its outbox, the mass it has not sent yet.

CREATE TABLE agent (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_sequence INTEGER NOT NULL CHECK (last_sequence >= 0), -- highest number given to an update, ever
    uploads INTEGER NOT NULL CHECK (uploads >= 0),             -- updates of this task that were accepted
    events INTEGER NOT NULL CHECK (events >= 0),               -- orders what happened to the residual
    task BLOB                                                  -- the last Welcome, msgpack; NULL: never connected
) STRICT;
INSERT INTO agent VALUES (1, 0, 0, 0, NULL);

-- The residual as it was after event `event`. A newer one is what this becomes by the outbox's rows after that event.
CREATE TABLE residual (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    event INTEGER NOT NULL,
    data BLOB NOT NULL -- float32, little-endian
) STRICT;

-- A row stands here until it is settled and the residual that is stored contains what it did to it.
CREATE TABLE outbox (
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
    settled_weight REAL                    -- what the coordinator applied of it; NULL: nothing returns
) STRICT;

-- The newest regional model that was written down, so that training goes on at once after a restart.
CREATE TABLE model (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    lineage TEXT NOT NULL,
    number INTEGER NOT NULL,
    data BLOB NOT NULL -- float32, little-endian
) STRICT;
