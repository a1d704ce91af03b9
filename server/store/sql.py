"""Every statement of the store, once, beside its purpose. `$1` placeholders; both engines run them.

`{for_update}` and `{skip_locked}` are row locks where the engine has them, `{among}` is a list of keys (`Tx.among`),
`{int}`, `{text}` and `{bytes}` say what a bare placeholder is, `{free}` is true unless another node has $1 with $2 in
hand. A partial index serves a query only if
its condition stands in the query word for word (`schema/`).
"""

TASK = (
    "id, type, status, priority, titre, message, total, skipped, doublons, sent, failed, attempts, run, created_ms,"
    " started_ms, ended_ms, place_ms, due_ms, planned_ms, expires_ms, lease_ms, fence, crashes, node, failure,"
    " webhook_url, key_id"
)
EVENT = "seq, at_ms, kind, task_id, type, status, priority, body"
OUTCOME = "n, run, attempt, round, channel, word, reason, code, detail, reference, at_ms, took_ms"

# --- the tail of every transaction: numbers, counters, events ---------------------------------

TAKE_SEQ = "UPDATE counter SET n = n + $1 WHERE name = 'seq' RETURNING n"
"""Take a block of event numbers; the row's lock is held to the commit, so seq grows in commit order."""

SKIP_SEQ = "UPDATE counter SET n = $1 + 1 WHERE name = 'seq' AND n < $1 RETURNING n"
"""Where the log ends before $1, of which somebody was told: go on behind it, and leave a gap for them to see."""

ADD_EVENT = f"INSERT INTO event ({EVENT}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"

ADD_TALLY = """
INSERT INTO tally (type, priority, status, n) VALUES ($1, $2, $3, $4)
ON CONFLICT (type, priority, status) DO UPDATE SET n = tally.n + excluded.n"""

ADD_TOTAL = """
INSERT INTO counter (name, n) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET n = counter.n + excluded.n"""

ADD_MINUTE = """
INSERT INTO minute (minute, what, n) VALUES ($1, $2, $3)
ON CONFLICT (minute, what) DO UPDATE SET n = minute.n + excluded.n"""

# --- enqueue ----------------------------------------------------------------------------------

ADD_TASK = f"""
INSERT INTO task ({TASK}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14,
  $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27)"""

ADD_CHUNK = "INSERT INTO chunk (task_id, n, recipients) VALUES ($1, $2, $3)"

CLAIM_IDEMPOTENCY = """
INSERT INTO idempotency (key_id, key, hash, task_id, answer, at_ms)
SELECT $1{text}, $2{text}, $3{text}, $4{text}, $5{bytes}, $6{int} WHERE {free}
ON CONFLICT (key_id, key) DO UPDATE
  SET hash = excluded.hash, task_id = excluded.task_id, answer = excluded.answer, at_ms = excluded.at_ms
  WHERE idempotency.at_ms < $7
RETURNING key"""
"""Take an Idempotency-Key; no row if it was used since $7, or is in hand at another node: {free} never waits for it."""

GET_IDEMPOTENCY = "SELECT hash, answer FROM idempotency WHERE key_id = $1 AND key = $2 AND at_ms >= $3"

STANDING = """
SELECT COALESCE(SUM(n), 0){int},
  (SELECT 1 FROM meta WHERE key = 'paused' AND value = '1') IS NOT NULL
  OR EXISTS (
    SELECT 1 FROM (SELECT DISTINCT type, priority FROM tally) AS kind WHERE (
      SELECT 1 FROM task
      WHERE task.status = 'pending' AND due_ms = 0 AND task.type = kind.type AND task.priority = kind.priority
      ORDER BY place_ms, id LIMIT 1) IS NOT NULL)
FROM tally WHERE status IN ('pending', 'processing')"""
"""How many tasks are not ended; and must a new one wait, as the queue is paused or others are ready?

Looked for by type and priority, for the index; not by the tally's figures: the transaction's tail brings those up to
date.
"""

# --- claim, leases, what is due ----------------------------------------------------------------

PROMOTE = """
WITH due AS MATERIALIZED (                   -- MATERIALIZED: else a nested loop may take more than the limit
  SELECT id AS due_id FROM task WHERE due_ms > 0 AND due_ms <= $1
  ORDER BY due_ms LIMIT $2 {skip_locked})
UPDATE task SET due_ms = 0, place_ms = due_ms FROM due WHERE id = due_id RETURNING id"""
"""Planned and backing-off tasks whose time has come join the queue, at the place of that time."""

EXPIRE = f"""
WITH late AS MATERIALIZED (
  SELECT id AS late_id FROM task
  WHERE expires_ms IS NOT NULL AND ended_ms IS NULL AND expires_ms <= $1 AND status <> 'processing'
  ORDER BY expires_ms LIMIT $2 {{skip_locked}})
UPDATE task SET status = 'failed', failure = $3, ended_ms = $1, due_ms = 0, lease_ms = NULL, fence = fence + 1,
  failed = total - skipped - sent
FROM late WHERE id = late_id RETURNING {TASK}"""

SILENT = """
SELECT id, crashes FROM task WHERE status = 'processing' AND lease_ms <= $1 LIMIT $2 {skip_locked}"""
"""Tasks whose owner has let its lease run out; in hand there are only so many as there are workers."""

TAKE_OVER = f"""
UPDATE task SET status = $2, crashes = crashes + 1, fence = fence + 1, lease_ms = NULL, node = NULL, failure = $3,
  ended_ms = $4, place_ms = created_ms, due_ms = $5,
  failed = CASE WHEN $2 = 'failed' THEN total - skipped - sent ELSE failed END
WHERE id = $1 AND status = 'processing' RETURNING {TASK}"""

TYPES = "SELECT DISTINCT type, value FROM tally, meta WHERE key = 'paused'"
"""All types that ever had a task, each beside whether the queue is paused."""

READY = """
SELECT priority, place_ms, id, type FROM task
WHERE status = 'pending' AND due_ms = 0 AND type = $1 AND priority <= $2
ORDER BY priority, place_ms, id LIMIT $3 {skip_locked}"""
"""The most urgent ready tasks of one type; a type at its rate limit is not asked for, so it holds up no other."""

LEFT = """
SELECT 1 FROM task WHERE status = 'pending' AND due_ms = 0 AND type = $1 AND priority <= $2
ORDER BY priority, place_ms, id LIMIT 1"""
"""Is one of a type still ready? After READY skipped what other nodes look at just now, and CLAIM took the rest."""

CLAIM = """
UPDATE task SET status = 'processing', fence = fence + 1, lease_ms = $2, node = $3, attempts = attempts + 1,
  started_ms = COALESCE(started_ms, $4)
WHERE id {among}"""
"""Take what READY has locked. No RETURNING: in SQLite it takes as long again as the update."""

RENEW = """
UPDATE task SET lease_ms = $3 WHERE id = $1 AND fence = $2 AND node = $4 AND status = 'processing' RETURNING id"""

NEXT_DUE = "SELECT due_ms FROM task WHERE due_ms > 0 ORDER BY due_ms LIMIT 1"
NEXT_EXPIRY = """
SELECT expires_ms FROM task WHERE expires_ms IS NOT NULL AND ended_ms IS NULL AND status <> 'processing'
ORDER BY expires_ms LIMIT 1"""

STARTED_SINCE = "SELECT type, SUM(n) FROM pace WHERE second > $1 GROUP BY type"
ADD_PACE = """
INSERT INTO pace (second, type, n) VALUES ($1, $2, $3)
ON CONFLICT (second, type) DO UPDATE SET n = pace.n + excluded.n"""
PURGE_PACE = "DELETE FROM pace WHERE second <= $1"

# --- outcomes and ends --------------------------------------------------------------------------

LOCK_TASK = f"SELECT {TASK} FROM task WHERE id = $1 {{for_update}}"

ADD_OUTCOME = f"""
INSERT INTO outcome (task_id, {OUTCOME}, again)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13,
  CASE WHEN EXISTS (SELECT 1 FROM outcome WHERE task_id = $1 AND n = $2 AND word = 'sent') THEN 1 ELSE 0 END)
ON CONFLICT (task_id, n, run, attempt) DO UPDATE
  SET round = excluded.round, channel = excluded.channel, word = excluded.word, reason = excluded.reason,
      code = excluded.code, detail = excluded.detail, reference = excluded.reference, at_ms = excluded.at_ms,
      took_ms = excluded.took_ms,
      again = excluded.again
  WHERE excluded.word = 'sent' AND outcome.word <> 'sent'
RETURNING task_id, word, again, at_ms + took_ms"""
"""Record one attempt. A `sent` is true whoever reports it, so it may replace another word and is never replaced."""

SAVE_TASK = """
UPDATE task SET status = $2, sent = $3, failed = $4, attempts = $5, run = $6, ended_ms = $7, place_ms = $8,
  due_ms = $9, lease_ms = $10, fence = $11, crashes = $12, node = $13, failure = $14
WHERE id = $1"""
"""Write what can change of a task that this transaction has locked (LOCK_TASK)."""

HELD = "SELECT id, fence FROM task WHERE id {among} AND status = 'processing' {for_update}"
HOLD_ON = "UPDATE task SET sent = $2, failed = $3, crashes = $4 WHERE id = $1"
LET_END = """
UPDATE task SET status = v.column2, sent = v.column3, failed = v.column4, crashes = v.column5, attempts = v.column6,
  ended_ms = v.column7, place_ms = v.column8, due_ms = v.column9, lease_ms = NULL, node = v.column10,
  failure = v.column11
FROM (VALUES ($1{text}, $2{text}, $3{int}, $4{int}, $5{int}, $6{int}, $7{int}, $8{int}, $9{int}, $10{text}, $11{text}))
  AS v WHERE id = v.column1"""
"""What the only holder that a task ever had writes of it once HELD says that it is: nobody else can have changed it."""

ADD_FIRST_OUTCOME = f"""
INSERT INTO outcome (task_id, {OUTCOME}, again) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 0)
ON CONFLICT (task_id, n, run, attempt) DO NOTHING"""
"""Record one attempt of a task's only holder: there can be no other record of it but this very one."""

# --- removing ------------------------------------------------------------------------------------

OLD_ENDED = """
SELECT id FROM task WHERE ended_ms IS NOT NULL AND ended_ms <= $1 AND status = $2
ORDER BY ended_ms LIMIT $3 {skip_locked}"""
DROP_TASK = f"DELETE FROM task WHERE id = $1 AND ended_ms IS NOT NULL RETURNING {TASK}"
ADD_TRASH = "INSERT INTO trash (task_id) VALUES ($1) ON CONFLICT DO NOTHING"
TRASH = "SELECT task_id FROM trash LIMIT 500"
EMPTY_OUTCOMES = """
DELETE FROM outcome WHERE (task_id, n, run, attempt) IN (
  SELECT task_id, n, run, attempt FROM outcome WHERE task_id = $1 LIMIT $2) RETURNING n"""
EMPTY_CHUNKS = """
DELETE FROM chunk WHERE (task_id, n) IN (SELECT task_id, n FROM chunk WHERE task_id = $1 LIMIT $2) RETURNING n"""
DROP_TRASH = "DELETE FROM trash WHERE task_id = $1"
PURGE_EVENTS = """
DELETE FROM event WHERE seq <= (
  SELECT MAX(seq) FROM (
    SELECT seq, MAX(at_ms) OVER (ORDER BY seq) AS until_ms
    FROM (SELECT seq, at_ms FROM event ORDER BY seq LIMIT $2) AS oldest) AS run
  WHERE until_ms <= $1) RETURNING seq"""
"""The oldest events by `seq`, up to the first that is too young: the log stays without gaps, whatever clocks did."""
PURGE_MINUTES = "DELETE FROM minute WHERE minute < $1"
PURGE_IDEMPOTENCY = """
DELETE FROM idempotency WHERE (key_id, key) IN (
  SELECT key_id, key FROM idempotency WHERE at_ms <= $1 ORDER BY at_ms LIMIT $2) RETURNING key"""

# --- reading -------------------------------------------------------------------------------------

TAKEN = f"SELECT {TASK}, recipients FROM task JOIN chunk ON task_id = id WHERE id {{among}} AND n = 0"
"""Tasks, each with its first chunk of recipients."""
GET_TASK = f"SELECT {TASK} FROM task WHERE id = $1"
CHUNKS = "SELECT n, recipients FROM chunk WHERE task_id = $1 AND n >= $2 ORDER BY n LIMIT $3"
CHUNK_OF = "SELECT n, recipients FROM chunk WHERE task_id = $1 AND n <= $2 ORDER BY n DESC LIMIT 1"
OUTCOMES = f"""
SELECT {OUTCOME} FROM outcome WHERE task_id = $1 AND n >= $2 AND n < $3 ORDER BY n, run, attempt"""

PAGE = f"""
SELECT {TASK} FROM (SELECT * FROM task WHERE {{range}} ORDER BY id DESC LIMIT {{scan}}) AS task
WHERE {{filter}} ORDER BY id DESC LIMIT {{limit}}"""
"""Newest first within a range of ids that an index serves; `filter` looks at no more than `scan` rows of it."""
PAGE_END = "SELECT id FROM task WHERE {range} ORDER BY id DESC LIMIT 1 OFFSET {scan}"
"""The last row that PAGE looked at, if the range goes on behind it."""

EVENTS_AFTER = f"SELECT {EVENT} FROM event WHERE seq > $1 ORDER BY seq LIMIT $2"
EVENTS_OF = f"SELECT {EVENT} FROM event WHERE task_id = $1 AND seq > $2 ORDER BY seq LIMIT $3"
FIRST_SEQ = "SELECT seq FROM event ORDER BY seq LIMIT 1"
LAST_SEQ = "SELECT n FROM counter WHERE name = 'seq'"

TALLY = "SELECT type, priority, status, n FROM tally"
TOTALS = "SELECT name, n FROM counter"
MINUTES = "SELECT minute, what, n FROM minute WHERE minute > $1"
OLDEST_READY = """
SELECT place_ms FROM task WHERE status = 'pending' AND due_ms = 0 AND type = $1 AND priority = $2
ORDER BY place_ms LIMIT 1"""

GET_META = "SELECT value FROM meta WHERE key = $1"
SET_META = "UPDATE meta SET value = $2 WHERE key = $1"

# --- keys, sessions, sign-in links, audit --------------------------------------------------------

KEY = "id, name, role, hash, created_ms, used_ms, revoked_ms"
KEYS = f"SELECT {KEY} FROM api_key ORDER BY created_ms, id"
ADD_KEY = f"INSERT INTO api_key ({KEY}) VALUES ($1, $2, $3, $4, $5, $6, $7)"
ADD_FIRST_KEY = f"""
INSERT INTO api_key ({KEY}) SELECT $1{{text}}, $2{{text}}, $3{{int}}, $4{{text}}, $5{{int}}, $6{{int}}, $7{{int}}
WHERE NOT EXISTS (SELECT 1 FROM api_key) RETURNING id"""
"""Store a key, if there is none."""
REVOKE_KEY = f"UPDATE api_key SET revoked_ms = COALESCE(revoked_ms, $2) WHERE id = $1 RETURNING {KEY}"
TOUCH_KEY = "UPDATE api_key SET used_ms = $2 WHERE id = $1"
SESSION = "id, key_id, created_ms, expires_ms"
ADD_SESSION = f"INSERT INTO session ({SESSION}) VALUES ($1, $2, $3, $4)"
GET_SESSION = f"SELECT {SESSION} FROM session WHERE id = $1"
END_SESSION = "DELETE FROM session WHERE id = $1"
PURGE_SESSIONS = "DELETE FROM session WHERE expires_ms <= $1"
ADD_ONCE = "INSERT INTO once (hash, key_id, expires_ms) VALUES ($1, $2, $3)"
USE_ONCE = "DELETE FROM once WHERE hash = $1 AND expires_ms > $2 RETURNING key_id"
"""Use up a one-time sign-in link: of nodes that are asked at the same time, one gets the row."""
PURGE_ONCE = "DELETE FROM once WHERE expires_ms <= $1"
AUDIT = "at_ms, key_id, key_name, action, target, address, detail, id"
ADD_AUDIT = """
INSERT INTO audit (at_ms, key_id, key_name, action, target, address, detail) VALUES ($1, $2, $3, $4, $5, $6, $7)"""
AUDIT_PAGE = f"SELECT {AUDIT} FROM audit WHERE id < $1 ORDER BY id DESC LIMIT $2"

# --- completion webhooks, alerts -----------------------------------------------------------------

HOOK = "id, task_id, host, url, body, state, attempts, due_ms, until_ms, done_ms, last_ms, last_status, last_error"
ADD_HOOK = """
INSERT INTO webhook (id, task_id, host, url, body, state, attempts, due_ms, until_ms, last_error)
VALUES ($1, $2, $3, $4, $5, 'waiting', 0, $6, $7, '') ON CONFLICT (id) DO NOTHING"""
HOOKS_DUE = """
SELECT id, host FROM webhook WHERE state = 'waiting' AND due_ms <= $1 AND host NOT IN ($2, $3, $4, $5)
ORDER BY due_ms LIMIT $6 {skip_locked}"""
"""What is to be called now, but for hosts that have enough calls on the wire."""
TAKE_HOOK = f"""
UPDATE webhook SET attempts = attempts + 1, due_ms = $2, last_ms = $3
WHERE id = $1 AND state = 'waiting' RETURNING {HOOK}"""
TAKE_AGAIN = f"""
UPDATE webhook SET due_ms = $4, last_ms = $5
WHERE id = $1 AND attempts = $2 AND due_ms = $3 AND state = 'waiting' RETURNING {HOOK}"""
"""Take what was taken before, if that was written: the attempt and the end of its lease say by whom."""
SAVE_HOOK = """
UPDATE webhook SET state = $3, due_ms = $4, done_ms = $5, last_status = $6, last_error = $7
WHERE id = $1 AND attempts = $2 AND state = 'waiting' RETURNING id"""
"""Write what an attempt came to; nothing if another attempt has begun since."""
NEXT_HOOK = "SELECT due_ms FROM webhook WHERE state = 'waiting' AND due_ms > $1 ORDER BY due_ms LIMIT 1"
HOOKS_OF = f"SELECT {HOOK} FROM webhook WHERE task_id = $1 ORDER BY id"
HOOKS_WAITING = "SELECT COUNT(*) FROM (SELECT 1 FROM webhook WHERE state = 'waiting' LIMIT $1) AS waiting"
PURGE_HOOKS = """
DELETE FROM webhook WHERE id IN (
  SELECT id FROM webhook WHERE done_ms IS NOT NULL AND done_ms <= $1 ORDER BY done_ms LIMIT $2) RETURNING id"""

ALERTS = "SELECT value FROM meta WHERE key LIKE 'alert:%' ORDER BY key"
RAISE_ALERT = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO NOTHING RETURNING key"
CLEAR_ALERT = "DELETE FROM meta WHERE key = $1 RETURNING value"
TELL_ALERT = """
INSERT INTO meta (key, value) VALUES ($1, $2)
ON CONFLICT (key) DO UPDATE SET value = excluded.value WHERE CAST(meta.value AS BIGINT) <= $3 RETURNING key"""
"""Take the right to tell people of an alert; no row if they were told since $3."""
MINUTES_ENDED = "SELECT minute, what, n FROM minute WHERE minute > $1 AND what IN ('completed', 'failed')"

# --- the cluster ---------------------------------------------------------------------------------

NODE = "name, version, started_ms, beat_ms, workers, in_hand, told"
BEAT = f"""
INSERT INTO node ({NODE}) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE
  SET version = excluded.version, started_ms = excluded.started_ms, beat_ms = excluded.beat_ms,
      workers = excluded.workers, in_hand = excluded.in_hand, told = excluded.told"""
NODES = f"SELECT {NODE} FROM node WHERE beat_ms > $1 ORDER BY name"
FORGET_NODES = "DELETE FROM node WHERE beat_ms <= $1"
LEAVE = "DELETE FROM node WHERE name = $1"
TAKE_DUTY = """
INSERT INTO duty (name, node, until_ms) VALUES ($1, $2, $3)
ON CONFLICT (name) DO UPDATE SET node = excluded.node, until_ms = excluded.until_ms
  WHERE duty.until_ms <= $4 OR duty.node = excluded.node
RETURNING node"""
"""Hold a duty until $3; no row while another node holds it."""
LET_GO = "UPDATE task SET node = NULL WHERE id = $1 AND node = $2 AND status = 'cancelled'"
"""The node that had a cancelled task in hand begins no further call for it."""
