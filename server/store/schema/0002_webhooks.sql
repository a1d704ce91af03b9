-- Completion webhooks: one row per run of a task that ended and asked for one. It carries its own copy of the body, so
-- that it outlives the task, and is its own lease: whoever takes it moves due_ms ahead and counts the attempt.

CREATE TABLE webhook (
  id          TEXT PRIMARY KEY,  -- the message's webhook-id
  task_id     TEXT NOT NULL,
  host        TEXT NOT NULL,     -- of the URL, so that one slow host does not take every slot
  url         TEXT NOT NULL,
  body        {blob} NOT NULL,
  state       TEXT NOT NULL,     -- waiting, delivered, stopped, gave_up
  attempts    INTEGER NOT NULL,
  due_ms      BIGINT NOT NULL,
  until_ms    BIGINT NOT NULL,   -- the last try is made then
  done_ms     BIGINT,
  last_ms     BIGINT,
  last_status INTEGER,
  last_error  TEXT NOT NULL
);
CREATE INDEX webhook_due  ON webhook (due_ms, host) WHERE state = 'waiting';
CREATE INDEX webhook_task ON webhook (task_id);
CREATE INDEX webhook_done ON webhook (done_ms) WHERE done_ms IS NOT NULL;
