-- The first schema. One file for both engines: {blob}, {compact} and {serial} are the dialect's words.

CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
);

-- The log's last number: taken as a block at the tail of each transaction, so that seq grows in commit order.
CREATE TABLE counter (
  name TEXT PRIMARY KEY,
  n    BIGINT NOT NULL
);

CREATE TABLE task (
  id          TEXT PRIMARY KEY,
  type        TEXT NOT NULL,
  status      TEXT NOT NULL,
  priority    INTEGER NOT NULL,
  titre       TEXT NOT NULL,
  message     TEXT NOT NULL,
  total       BIGINT NOT NULL,
  skipped     BIGINT NOT NULL,
  doublons    BIGINT NOT NULL,
  sent        BIGINT NOT NULL,
  failed      BIGINT NOT NULL,
  attempts    INTEGER NOT NULL,
  run         INTEGER NOT NULL,
  created_ms  BIGINT NOT NULL,
  started_ms  BIGINT,
  ended_ms    BIGINT,
  place_ms    BIGINT NOT NULL,
  due_ms      BIGINT NOT NULL,
  planned_ms  BIGINT,
  expires_ms  BIGINT,
  lease_ms    BIGINT,
  fence       BIGINT NOT NULL,
  crashes     INTEGER NOT NULL,
  node        TEXT,
  failure     TEXT,
  webhook_url TEXT,
  key_id      TEXT
) {compact};
CREATE INDEX task_status ON task (status, id);
CREATE INDEX task_ready  ON task (type, priority, place_ms, id) WHERE status = 'pending' AND due_ms = 0;
-- The conditions name no status: else the planner would take task_status instead, and look at every pending task.
CREATE INDEX task_due    ON task (due_ms) WHERE due_ms > 0;
CREATE INDEX task_expiry ON task (expires_ms) WHERE expires_ms IS NOT NULL AND ended_ms IS NULL;
CREATE INDEX task_lease  ON task (lease_ms) WHERE lease_ms IS NOT NULL;
CREATE INDEX task_ended  ON task (status, ended_ms) WHERE ended_ms IS NOT NULL;

-- A few hundred recipients per row, as JSON; n is the first one's ordinal.
CREATE TABLE chunk (
  task_id    TEXT NOT NULL,
  n          BIGINT NOT NULL,
  recipients {blob} NOT NULL,
  PRIMARY KEY (task_id, n)
) {compact};

CREATE TABLE outcome (
  task_id   TEXT NOT NULL,
  n         BIGINT NOT NULL,
  run       INTEGER NOT NULL,
  attempt   INTEGER NOT NULL,
  round     INTEGER NOT NULL,
  channel   TEXT NOT NULL,
  word      TEXT NOT NULL,
  reason    TEXT NOT NULL,
  code      TEXT NOT NULL,
  detail    TEXT NOT NULL,
  reference TEXT NOT NULL,
  at_ms     BIGINT NOT NULL,
  took_ms   BIGINT NOT NULL,
  again     INTEGER NOT NULL,  -- 1: this recipient had been reached before (a late record after a takeover)
  PRIMARY KEY (task_id, n, run, attempt)
) {compact};

CREATE TABLE event (
  seq      BIGINT PRIMARY KEY,
  at_ms    BIGINT NOT NULL,
  kind     TEXT NOT NULL,
  task_id  TEXT NOT NULL,
  type     TEXT NOT NULL,
  status   TEXT NOT NULL,
  priority INTEGER NOT NULL,
  body     {blob} NOT NULL
) {compact};
CREATE INDEX event_task ON event (task_id, seq);

-- Counted as tasks move, so that statistics never count rows.
CREATE TABLE tally (
  type     TEXT NOT NULL,
  priority INTEGER NOT NULL,
  status   TEXT NOT NULL,
  n        BIGINT NOT NULL,
  PRIMARY KEY (type, priority, status)
) {compact};
CREATE TABLE minute (
  minute BIGINT NOT NULL,  -- epoch minutes
  what   TEXT NOT NULL,    -- enqueued, completed, failed, sent, reach:BUCKET
  n      BIGINT NOT NULL,
  PRIMARY KEY (minute, what)
) {compact};
CREATE TABLE pace (
  second BIGINT NOT NULL,
  type   TEXT NOT NULL,
  n      BIGINT NOT NULL,
  PRIMARY KEY (second, type)
) {compact};

-- Tasks that are gone but whose recipients and outcomes are still to be removed, slice by slice.
CREATE TABLE trash (
  task_id TEXT PRIMARY KEY
) {compact};

CREATE TABLE idempotency (
  key_id  TEXT NOT NULL,
  key     TEXT NOT NULL,
  hash    TEXT NOT NULL,
  task_id TEXT NOT NULL,
  answer  {blob} NOT NULL,
  at_ms   BIGINT NOT NULL,
  PRIMARY KEY (key_id, key)
) {compact};
CREATE INDEX idempotency_age ON idempotency (at_ms);

CREATE TABLE api_key (
  id         TEXT PRIMARY KEY,
  name       TEXT NOT NULL,
  role       INTEGER NOT NULL,
  hash       TEXT NOT NULL UNIQUE,
  created_ms BIGINT NOT NULL,
  used_ms    BIGINT,
  revoked_ms BIGINT
);
CREATE TABLE session (
  id         TEXT PRIMARY KEY,
  key_id     TEXT NOT NULL,
  created_ms BIGINT NOT NULL,
  expires_ms BIGINT NOT NULL
);
CREATE TABLE audit (
  id       {serial},
  at_ms    BIGINT NOT NULL,
  key_id   TEXT NOT NULL,
  key_name TEXT NOT NULL,
  action   TEXT NOT NULL,
  target   TEXT NOT NULL,
  address  TEXT NOT NULL,
  detail   TEXT NOT NULL
);

INSERT INTO counter (name, n) VALUES ('seq', 0), ('total_enqueued', 0), ('total_processed', 0), ('total_failed', 0);
INSERT INTO meta (key, value) VALUES ('paused', '0');
