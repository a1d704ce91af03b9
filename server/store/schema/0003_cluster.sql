-- The nodes that share this store, and what only one of them does at a time.

CREATE TABLE node (
  name       TEXT PRIMARY KEY,
  version    TEXT NOT NULL,
  started_ms BIGINT NOT NULL,
  beat_ms    BIGINT NOT NULL,  -- by the store's clock
  workers    INTEGER NOT NULL,
  in_hand    INTEGER NOT NULL,
  told       BIGINT NOT NULL   -- the last event that this node has told its subscribers
);
CREATE TABLE duty (
  name     TEXT PRIMARY KEY,
  node     TEXT NOT NULL,
  until_ms BIGINT NOT NULL
);
