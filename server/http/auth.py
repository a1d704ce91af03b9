"""Keys and sessions: who is calling, and may they.

All keys stand in memory by their hash, read anew from the store every two seconds, so that a key revoked by another
node or command is dead within five. A session is a browser's stand-in for a key and dies with it. Who is told of
an end (`on_revoked`) closes its streams. Which role a route needs is the route's affair.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from uuid_utils import uuid7

from server.clock import Clock
from server.http.caller import Callers, changes_state
from server.http.limits import Limiter
from server.http.problems import BadSignIn, ForeignOrigin, TooFast, Unauthorized
from server.model import ApiKey, AuditEntry, Role, Session
from server.store import Store, StoreUnavailable

log = logging.getLogger("tocsin.auth")

KEY = web.RequestKey("key", ApiKey)
"""The key a request was made with, set once it is known."""
SESSION = web.RequestKey("session", Session)
"""The session it came by; absent with a key in the header."""

REFRESH_S = 2.0
SESSION_TTL_MS = 12 * 3_600_000
ONCE_TTL_MS = 15 * 60_000
LONG_ENOUGH = 20
"""Characters from which on a configured key cannot be guessed, so that its holder is never slowed down."""
MAX_CACHED = 10_000

COOKIE = "tocsin_session"
SECURE_COOKIE = "__Host-tocsin_session"  # a browser takes this name by TLS alone, for this host alone


def hash_of(secret: str) -> str:
    """What is kept of a secret."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def new_key(name: str, role: Role, now_ms: int) -> tuple[ApiKey, str]:
    """A new key and its secret, which is shown once: 256 random bits."""
    secret = "tocsin_" + secrets.token_urlsafe(32)
    return ApiKey(id=str(uuid7()), name=name, role=role, hash=hash_of(secret), created_ms=now_ms), secret


@dataclass(frozen=True)
class FirstKey:
    """What a first start prints."""

    key: ApiKey
    secret: str


class KeyRing:
    """All keys and the sessions in use."""

    def __init__(self, store: Store, clock: Clock, callers: Callers, admin_key: str = "") -> None:
        self._store = store
        self._clock = clock
        self._callers = callers
        self._configured: ApiKey | None = None
        self._guessable = False
        if admin_key:
            digest = hash_of(admin_key)
            self._configured = ApiKey(  # the id changes with the key: sessions of an older one are dead
                id=f"config-{digest[:12]}", name="auth.admin_key", role=Role.ADMIN, hash=digest, created_ms=0
            )
            self._guessable = len(admin_key) < LONG_ENOUGH
        self._by_hash: dict[str, ApiKey] = {}
        self._by_id: dict[str, ApiKey] = {}
        self._recent: dict[str, ApiKey] = {}  # valid secrets of the last two seconds: spares hashing each request
        self._changes = 0  # keys added or revoked by this node
        self._used: dict[str, int] = {}
        self._sessions: dict[str, tuple[Session, float]] = {}
        self._streaming: dict[str, Session] = {}
        self._bad_keys = Limiter(clock, 30)
        self._bad_sign_ins = Limiter(clock, 10)
        self._task: asyncio.Task[None] | None = None
        self.first: FirstKey | None = None
        self.on_revoked: list[Callable[[str, str | None], None]] = []
        """Called with (key id, None) when a key ends, with (key id, session id) when only that session does."""

    # --- life ------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Read the keys; where there is none at all, make an admin key (`first`). Begins to keep up."""
        await self.reload()
        if not self._by_id:
            key, secret = new_key("admin", Role.ADMIN, self._clock.now_ms())
            unsure: StoreUnavailable | None = None
            try:
                await self._store.add_first_key(key)
            except StoreUnavailable as error:
                if not error.perhaps:
                    raise
                unsure = error  # if it was stored, nobody would ever be shown it
            await self.reload()
            if key.id in self._by_id:
                self.first = FirstKey(key, secret)
            elif unsure and not self._by_id:
                raise unsure
        self._task = asyncio.create_task(self._keep_up(), name="keyring")

    async def close(self) -> None:
        """Stop keeping up; note when keys were last used."""
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self._flush()
        except StoreUnavailable as error:
            log.warning("the keys' last use was not noted: %s", error)

    async def _keep_up(self) -> None:
        ticks = 0
        while True:
            await self._clock.sleep(REFRESH_S)
            ticks += 1
            try:
                await self.reload()
                await self._check_sessions()
                if ticks % 5 == 0:
                    await self._flush()
            except StoreUnavailable as error:  # the keys known so far go on
                log.warning("keys could not be read again: %s", error)
            except Exception:  # a defect, or a row of another version's, must not keep revoked keys alive for good
                log.exception("keys could not be read again")

    async def reload(self) -> None:
        """Read all keys from the store; tell of those that are gone."""
        while True:
            changes = self._changes
            living = [key for key in await self._store.keys() if key.revoked_ms is None]
            if changes == self._changes:  # else a key was added or revoked here meanwhile: this reading is old
                break
        before = self._by_id
        if self._configured:
            living.append(self._configured)
        self._by_hash = {key.hash: key for key in living}
        self._by_id = {key.id: key for key in living}
        self._recent = {}
        for key_id in before.keys() - self._by_id.keys():
            self._tell(key_id, None)

    async def _check_sessions(self) -> None:
        """End the streams of sessions that ran out, or were signed out at another node."""
        now_ms = self._clock.now_ms()
        for session in list(self._streaming.values()):
            if session.expires_ms <= now_ms or await self._store.session(session.id) is None:
                self._forget(session)

    async def _flush(self) -> None:
        used, self._used = self._used, {}
        used.pop(self._configured.id if self._configured else "", None)
        if used:
            try:
                await self._store.touch_keys(used)
            except StoreUnavailable:
                self._used = used | self._used  # to be noted next time
                raise

    def _tell(self, key_id: str, session_id: str | None) -> None:
        for told in self.on_revoked:
            told(key_id, session_id)

    # --- keys ------------------------------------------------------------------------------------

    async def all(self) -> list[ApiKey]:
        """Every key that is not revoked, with its last use as known to this node."""
        await self._flush()
        return [key for key in await self._store.keys() if key.revoked_ms is None]

    async def add(self, key: ApiKey, audit: AuditEntry | None = None) -> None:
        """Store a new key; it works at once."""
        await self._store.add_key(key, audit)
        self._changes += 1
        self._by_hash[key.hash] = key
        self._by_id[key.id] = key

    async def revoke(self, key_id: str, audit: Callable[[ApiKey], AuditEntry] | None = None) -> ApiKey | None:
        """Revoke a key: here at once, at other nodes within five seconds. None if there is no such key (any more)."""
        if key_id not in self._by_id:
            await self.reload()
        key = self._by_id.get(key_id)
        if key is None or key is self._configured:
            return None
        revoked = await self._store.revoke_key(key_id, self._clock.now_ms(), audit(key) if audit else None)
        self._changes += 1
        self._by_id.pop(key_id, None)
        self._by_hash.pop(key.hash, None)
        self._recent = {}
        self._tell(key_id, None)
        return revoked

    def by_secret(self, secret: str) -> ApiKey | None:
        """The key with this secret. Found by its hash, so the time taken tells nothing."""
        key = self._recent.get(secret)
        if key is None:
            key = self._by_hash.get(hash_of(secret))
            if key is not None:
                self._recent[secret] = key
        if key is not None:
            self._used[key.id] = self._clock.now_ms()
        return key

    # --- requests --------------------------------------------------------------------------------

    def from_header(self, request: web.BaseRequest, secret: str) -> ApiKey:
        """The key in a request's header. Raises Unauthorized, or TooFast for an address that was wrong too often."""
        key = self.by_secret(secret)
        if key is not None and not (self._guessable and key is self._configured):
            return key
        address = self._callers.neighbourhood(request)
        if wait_s := self._bad_keys.wait_s(address):
            raise TooFast(wait_s, headers=self._bad_keys.headers(address))
        if key is None:
            self._bad_keys.take(address)
            raise Unauthorized()
        return key

    async def identify(self, request: web.Request) -> ApiKey:
        """Whose request this is: by header, else by cookie. Sets KEY (and SESSION).

        Raises Unauthorized; ForeignOrigin where a cookie alone would let another site's page act.
        """
        secret = request.headers.get("X-API-Key")
        if secret is not None:
            key = self.from_header(request, secret)
            request[KEY] = key
            return key
        session = await self.session_of(request)
        if session is None:
            raise Unauthorized()
        if changes_state(request) and not self._callers.is_own_page(request):
            raise ForeignOrigin()
        return self._by_session(request, session)

    async def authenticate_stream(self, request: web.Request) -> ApiKey:
        """The same for an event stream. By cookie the request must come from an own page: `Origin` for a WebSocket,
        `Origin` or `Sec-Fetch-Site: same-origin` for SSE."""
        if "X-API-Key" in request.headers:
            return await self.identify(request)
        session = await self.session_of(request)
        if session is None:
            raise Unauthorized()
        websocket = request.headers.get("Upgrade", "").lower() == "websocket"
        if not self._callers.is_own_page(request, origin_only=websocket):
            raise ForeignOrigin()
        if len(self._streaming) < MAX_CACHED:
            self._streaming[session.id] = session
        return self._by_session(request, session)

    def lives(self, key: ApiKey, session: Session | None) -> bool:
        """Has neither ended since its stream was asked for? Who was not yet among the streams was not told of it."""
        if key.id not in self._by_id:
            return False
        return session is None or session.id in self._streaming or len(self._streaming) >= MAX_CACHED

    def _by_session(self, request: web.Request, session: Session) -> ApiKey:
        key = self._by_id.get(session.key_id)
        if key is None:
            raise Unauthorized()
        request[KEY] = key
        request[SESSION] = session
        self._used[key.id] = self._clock.now_ms()
        return key

    # --- sessions --------------------------------------------------------------------------------

    def _cookie(self, request: web.BaseRequest) -> str:
        return SECURE_COOKIE if self._callers.secure(request) else COOKIE

    async def session_of(self, request: web.BaseRequest) -> Session | None:
        """The living session of a request's cookie."""
        if "Cookie" not in request.headers or not (token := request.cookies.get(self._cookie(request))):
            return None
        session_id = hash_of(token)
        now = self._clock.monotonic()
        cached = self._sessions.get(session_id)
        session: Session | None
        if cached and now - cached[1] < REFRESH_S:
            session = cached[0]
        else:
            session = await self._store.session(session_id)
            if session is None:
                self._sessions.pop(session_id, None)
                return None
            if len(self._sessions) >= MAX_CACHED:
                self._sessions.clear()
            self._sessions[session_id] = (session, now)
        if session is None or session.expires_ms <= self._clock.now_ms() or session.key_id not in self._by_id:
            return None
        return session

    async def sign_in(self, request: web.BaseRequest, secret: str) -> tuple[ApiKey, str]:
        """A new session for the key with this secret: the key and the cookie's value.

        Raises BadSignIn, or TooFast where this address was wrong too often (then not even a right key is tried).
        """
        address = self._callers.neighbourhood(request)
        if wait_s := self._bad_sign_ins.wait_s(address):
            raise TooFast(wait_s, headers=self._bad_sign_ins.headers(address))
        key = self.by_secret(secret)
        if key is None:
            self._bad_sign_ins.take(address)
            raise BadSignIn()
        return key, await self._begin(request, key)

    async def new_once(self, key: ApiKey) -> str:
        """A token for one sign-in with `key`, within 15 minutes, at any node: `/admin/login?once=TOKEN`."""
        token = secrets.token_urlsafe(32)
        await self._store.add_once(hash_of(token), key.id, self._clock.now_ms() + ONCE_TTL_MS)
        return token

    @property
    def configured(self) -> ApiKey | None:
        """The key `auth.admin_key`."""
        return self._configured

    async def sign_in_once(self, request: web.BaseRequest, token: str) -> tuple[ApiKey, str]:
        """The same for a one-time token, which is used up."""
        address = self._callers.neighbourhood(request)
        if wait_s := self._bad_sign_ins.wait_s(address):
            raise TooFast(wait_s, headers=self._bad_sign_ins.headers(address))
        key_id = await self._store.use_once(hash_of(token), self._clock.now_ms())
        if key_id is not None and key_id not in self._by_id:  # made at another node a moment ago
            await self.reload()
        key = self._by_id.get(key_id) if key_id is not None else None
        if key is None:
            self._bad_sign_ins.take(address)
            raise BadSignIn()
        return key, await self._begin(request, key)

    async def _begin(self, request: web.BaseRequest, key: ApiKey) -> str:
        if old := await self.session_of(request):
            await self.end(old)
        token = secrets.token_urlsafe(32)
        now_ms = self._clock.now_ms()
        await self._store.purge_sessions(now_ms)
        await self._store.add_session(
            Session(id=hash_of(token), key_id=key.id, created_ms=now_ms, expires_ms=now_ms + SESSION_TTL_MS)
        )
        return token

    async def end(self, session: Session) -> None:
        """Sign a browser out."""
        await self._store.end_session(session.id)
        self._forget(session)

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._streaming.pop(session.id, None)
        self._tell(session.key_id, session.id)

    def set_cookie(self, request: web.BaseRequest, response: web.StreamResponse, token: str) -> None:
        """Hand the session to the browser."""
        response.set_cookie(
            self._cookie(request),
            token,
            max_age=SESSION_TTL_MS // 1000,
            path="/",
            httponly=True,
            secure=self._callers.secure(request),
            samesite="Strict",
        )

    def drop_cookie(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Take it back."""
        response.del_cookie(
            self._cookie(request), path="/", httponly=True, secure=self._callers.secure(request), samesite="Strict"
        )
