-- Every statement that the coordinator runs on its database, by name. The tables: schema/.

-- name: region
SELECT coordinator, region, bundle_sha256, lineage FROM region;

-- name: create_region
INSERT INTO region (id, coordinator, region, bundle_sha256, lineage, created_at_s) VALUES (1, ?, ?, ?, ?, ?);

-- name: begin_lineage
UPDATE region SET lineage = ?, created_at_s = ?;

-- name: forget_journal
DELETE FROM journal;

-- name: forget_publications
DELETE FROM publication;

-- name: forget_checkpoints
DELETE FROM checkpoint;

-- name: forget_rule_states
DELETE FROM rule_state;

-- name: append_journal
INSERT INTO journal
    (position, version, kind, sender, sequence, base_number, weight, age, steps, examples, loss, seconds_per_step,
     staleness, frame_bytes, received_at_s, payload, entries, buffer_version, trim, factor, base_lineage)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: release_update
-- The arrival rule lets an update go that it held.
UPDATE journal SET version = ?, weight = ?, age = ?, buffer_version = ?, trim = ? WHERE position = ?;

-- name: drop_held
-- Another region took an update that is held here.
DELETE FROM journal WHERE position = ? AND version IS NULL;

-- name: find_update
-- Unless it was taken back.
SELECT version, kind, weight, trim, payload FROM journal AS taken
WHERE sender = ? AND sequence = ? AND kind IN ('update', 'model') AND NOT EXISTS (
    SELECT 1 FROM journal AS gone
    WHERE gone.sender = taken.sender AND gone.sequence = taken.sequence AND gone.kind = 'taken_back'
);

-- name: append_publication
INSERT INTO publication
    (position, coordinator, lineage, number, whole, epoch, broadcast, age, payload, received_at_s)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: put_ledger
INSERT INTO ledger (device, last_sequence, updates, recent) VALUES (?, ?, ?, ?)
ON CONFLICT (device) DO UPDATE
    SET last_sequence = excluded.last_sequence, updates = excluded.updates, recent = excluded.recent;

-- name: put_token
INSERT OR REPLACE INTO token (id, state) VALUES (1, ?);

-- name: put_rule_state
INSERT OR REPLACE INTO rule_state (rule, state) VALUES (?, ?);

-- name: put_conduct
INSERT OR REPLACE INTO conduct (device, line) VALUES (?, ?);

-- name: conducts
SELECT line FROM conduct ORDER BY device;

-- name: put_telemetry
INSERT OR REPLACE INTO telemetry (device, at_s, telemetry) VALUES (?, ?, ?);

-- name: append_evaluation
INSERT INTO evaluation (at_s, version, age, kind, examples, correct, loss) VALUES (?, ?, ?, ?, ?, ?, ?);

-- name: add_traffic
INSERT INTO traffic (party, name, sent_bytes, received_bytes) VALUES (?, ?, ?, ?)
ON CONFLICT (party, name) DO UPDATE
    SET sent_bytes = sent_bytes + excluded.sent_bytes, received_bytes = received_bytes + excluded.received_bytes;

-- name: put_checkpoint
INSERT OR REPLACE INTO checkpoint (version, position, written_at_s) VALUES (?, ?, ?);

-- name: checkpoints
SELECT version, position FROM checkpoint ORDER BY version DESC;

-- name: forget_checkpoint
DELETE FROM checkpoint WHERE version = ?;

-- name: cut_journal
-- Updates that are held have no version and stay.
DELETE FROM journal WHERE version <= ?;

-- name: cut_publications
DELETE FROM publication WHERE position <= ?;

-- name: last_position
SELECT max(ifnull((SELECT max(position) FROM journal), 0), ifnull((SELECT max(position) FROM publication), 0));

-- name: unledgered
-- A device whose newest update in the journal is not in its line.
SELECT sender FROM (SELECT sender, max(sequence) AS newest FROM journal WHERE kind != 'merge' GROUP BY sender)
LEFT JOIN ledger ON device = sender
WHERE newest > ifnull(last_sequence, 0) LIMIT 1;

-- name: ages
SELECT version, age FROM journal WHERE version IS NOT NULL ORDER BY version;

-- name: held
SELECT position, kind, sender, sequence, staleness, steps, examples, loss, factor, payload
FROM journal WHERE version IS NULL ORDER BY position;

-- name: replay
-- What made the versions after the first parameter, up to the second.
SELECT position, version, kind, sender, sequence, weight, age, payload, entries, buffer_version, trim
FROM journal WHERE version > ? AND version <= ? ORDER BY version;

-- name: publications
SELECT position, coordinator, lineage, number, whole, epoch, broadcast, age, payload
FROM publication WHERE position > ? ORDER BY position;

-- name: ledger
SELECT device, last_sequence, updates, recent FROM ledger ORDER BY device;

-- name: token
SELECT state FROM token;

-- name: rule_states
SELECT state FROM rule_state;

-- name: history_updates
SELECT position, version, sender, sequence, base_number, steps, examples, loss, seconds_per_step, staleness, weight,
    age, length(payload), frame_bytes, received_at_s
FROM journal WHERE kind IN ('update', 'model') ORDER BY position;

-- name: history_taken_back
SELECT version, sender, sequence, weight, age, received_at_s FROM journal WHERE kind = 'taken_back' ORDER BY version;

-- name: history_merges
SELECT version, sender, weight, age, received_at_s FROM journal WHERE kind = 'merge' ORDER BY version;

-- name: history_evaluations
SELECT at_s, version, age, kind, examples, correct, loss FROM evaluation ORDER BY at_s, rowid;

-- name: telemetry
SELECT device, at_s, telemetry FROM telemetry ORDER BY device;

-- name: history_traffic
SELECT party, name, sent_bytes, received_bytes FROM traffic ORDER BY party, name;
