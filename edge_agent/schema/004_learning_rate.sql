-- What was learned at a high learning rate counts for less at a lower one. 0: from before it was kept, counts in full.

ALTER TABLE residual ADD COLUMN
    learning_rate REAL NOT NULL DEFAULT 0 CHECK (learning_rate >= 0); -- of the newest update taken out of it

ALTER TABLE outbox ADD COLUMN
    learning_rate REAL NOT NULL DEFAULT 0 CHECK (learning_rate >= 0); -- the highest of its steps, schedule included
