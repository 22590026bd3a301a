-- What a device sends is a difference, or under some recipes the model that it trained.

ALTER TABLE outbox ADD COLUMN
    whole INTEGER NOT NULL DEFAULT 0 CHECK (whole IN (0, 1)); -- 1: the payload is a model
