-- What of the model is this device's own: tuned here, never uploaded.
CREATE TABLE head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    lineage TEXT NOT NULL,  -- of the regional model that it was tuned on
    number INTEGER NOT NULL,
    tensors TEXT NOT NULL,  -- names, one a line, in the order in which they lie in the model
    data BLOB NOT NULL      -- float32, little-endian
) STRICT;
