-- Updates that change the model together, as their robust mean over devices: those with the versions up to `buffer_version`.

ALTER TABLE journal ADD COLUMN buffer_version INTEGER CHECK (buffer_version >= version);

ALTER TABLE journal ADD COLUMN trim REAL CHECK ((trim IS NULL) = (buffer_version IS NULL)); -- share left out at either end
