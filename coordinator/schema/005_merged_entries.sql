-- A merge moves the entries that the peer's newest publication names, or all of them.

ALTER TABLE journal ADD COLUMN entries TEXT NOT NULL DEFAULT 'all' CHECK (entries IN ('all', 'published'));
