-- One-time sign-in links: any node may be the one that is asked, so what they are made of stands here, as a hash.

CREATE TABLE once (
  hash       TEXT PRIMARY KEY,
  key_id     TEXT NOT NULL,
  expires_ms BIGINT NOT NULL
);
