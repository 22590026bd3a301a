-- How far the device is in the schedule of its learning rate. Databases from before had none: they begin at 0.

ALTER TABLE agent ADD COLUMN
    steps INTEGER NOT NULL DEFAULT 0 CHECK (steps >= 0); -- local steps of this task that are in updates
