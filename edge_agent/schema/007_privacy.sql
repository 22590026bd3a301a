-- What has left this device, by how much noise was in it: whatever happens to tasks, it is never forgotten.

CREATE TABLE privacy_spent (
    noise_multiplier REAL PRIMARY KEY CHECK (noise_multiplier >= 0), -- 0: none
    updates INTEGER NOT NULL CHECK (updates > 0),                     -- with 0, at least so many: only the first is counted
    crc INTEGER NOT NULL GENERATED ALWAYS AS (row_crc(noise_multiplier, updates)) STORED
) STRICT, WITHOUT ROWID;

INSERT INTO privacy_spent (noise_multiplier, updates) SELECT 0.0, last_sequence FROM agent WHERE last_sequence > 0;
