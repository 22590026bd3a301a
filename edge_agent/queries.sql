-- Every statement that the agent runs on its database, by name. The tables: schema/.

-- name: agent
SELECT last_sequence, uploads, steps, events, task, moves FROM agent;

-- name: residual
SELECT event, data, learning_rate FROM residual;

-- name: model
SELECT lineage, number, data, age FROM model;

-- name: head
SELECT lineage, number, tensors, data FROM head;

-- name: outbox
SELECT
    sequence, lineage, number, steps, examples, loss, seconds_per_step, learning_rate,
    payload, event, settled_event, settled_weight, whole, base_age
FROM outbox ORDER BY sequence;

-- name: privacy_spent
SELECT noise_multiplier, updates FROM privacy_spent ORDER BY noise_multiplier;

-- name: spend_privacy
INSERT INTO privacy_spent (noise_multiplier, updates) VALUES (:noise_multiplier, 1)
ON CONFLICT (noise_multiplier) DO UPDATE SET updates = updates + 1;

-- name: take_update
-- One update more was taken out of the residual.
UPDATE agent SET last_sequence = :sequence, steps = steps + :steps, events = :event;

-- name: put_update
INSERT INTO outbox
    (sequence, lineage, number, steps, examples, loss, seconds_per_step, learning_rate, payload, event, whole,
     base_age)
VALUES (
    :sequence, :lineage, :number, :steps, :examples, :loss, :seconds_per_step, :learning_rate, :payload, :event, :whole,
    :base_age
);

-- name: put_residual
INSERT OR REPLACE INTO residual (id, event, data, learning_rate) VALUES (1, :event, :data, :learning_rate);

-- name: drop_settled
-- The residual just stored contains what these rows did to it.
DELETE FROM outbox WHERE settled_event < :event;

-- name: settle_update
UPDATE outbox SET settled_event = :event, settled_weight = :weight WHERE sequence = :sequence;

-- name: count_settlement
UPDATE agent SET events = :event, uploads = uploads + :accepted;

-- name: continue_after
UPDATE agent SET last_sequence = max(last_sequence, :sequence);

-- name: put_task
UPDATE agent SET task = :task, moves = :moves;

-- name: put_model
INSERT OR REPLACE INTO model (id, lineage, number, data, age) VALUES (1, :lineage, :number, :data, :age);

-- name: put_head
INSERT OR REPLACE INTO head (id, lineage, number, tensors, data) VALUES (1, :lineage, :number, :tensors, :data);

-- name: forget_counts
UPDATE agent SET uploads = 0, steps = 0;

-- name: forget_outbox
DELETE FROM outbox;

-- name: forget_residual
DELETE FROM residual;

-- name: forget_model
DELETE FROM model;

-- name: forget_head
DELETE FROM head;

-- name: empty_residual
-- Nothing is in it, as of now: the updates that wait go on waiting.
UPDATE residual SET event = (SELECT events FROM agent), data = zeroblob(length(data)), learning_rate = 0;
