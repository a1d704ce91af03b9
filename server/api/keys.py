"""Keys and the audit log, for admins: list, add, revoke; who did what."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from aiohttp import web
from msgspec import Meta, Struct

from server.http.auth import new_key
from server.http.front import FRONT
from server.http.problems import UnknownKey
from server.http.routes import Routes
from server.model import NO_CONTROLS, ApiKey, AuditEntry, Role, iso, iso_or_none

routes = Routes()

RoleName = Literal["viewer", "operator", "admin"]


class NewKey(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to be made: whose it is, and what it may do."""

    name: Annotated[str, Meta(min_length=1, max_length=100, pattern=NO_CONTROLS)]
    role: RoleName


class KeyView(Struct, frozen=True):
    """A key as it is listed; the key itself is never shown again."""

    id: str
    name: str
    role: RoleName
    created_at_iso: str
    last_used_at_iso: str | None


class KeyList(Struct, frozen=True):
    """All keys that are not revoked."""

    success: bool
    keys: list[KeyView]


class MadeKey(Struct, frozen=True):
    """A new key, shown this once."""

    success: bool
    id: str
    name: str
    role: RoleName
    key: str


class RevokedKey(Struct, frozen=True):
    """The key that is revoked now."""

    success: bool
    id: str
    name: str


class AuditQuery(Struct, frozen=True):
    """A page of the audit log."""

    limit: Annotated[int, Meta(ge=1, le=500)] = 50
    cursor: Annotated[str, Meta(pattern=r"^[0-9]{1,18}\Z")] | None = None


class AuditView(Struct, frozen=True):
    """Who did what, when, from where."""

    id: str
    at_iso: str
    key_id: str
    by: str
    action: str
    target: str
    address: str
    detail: dict[str, Any]


class AuditPage(Struct, frozen=True):
    """Entries, newest first; `next_cursor` leads to the older ones."""

    success: bool
    entries: list[AuditView]
    next_cursor: str | None


def _role(role: Role) -> RoleName:
    return role.name.lower()  # type: ignore[return-value]


def _view(key: ApiKey) -> KeyView:
    return KeyView(key.id, key.name, _role(key.role), iso(key.created_ms), iso_or_none(key.used_ms))


@routes.get("/admin/api/keys", needs=Role.ADMIN, gives=KeyList, summary="List the keys", tags=("keys",))
async def list_keys(request: web.Request) -> KeyList:
    """Every key that is not revoked, with its last use."""
    return KeyList(True, [_view(key) for key in await request.app[FRONT].keyring.all()])


@routes.post(
    "/admin/api/keys",
    needs=Role.ADMIN,
    takes=NewKey,
    gives=MadeKey,
    status=201,
    summary="Make a key; it is shown this once",
    tags=("keys",),
    example={"name": "Centrale météo", "role": "operator"},
)
async def make_key(request: web.Request, new: NewKey) -> MadeKey:
    """Make a key, which works at once."""
    front = request.app[FRONT]
    key, secret = new_key(new.name, Role[new.role.upper()], front.clock.now_ms())
    await front.keyring.add(key, front.entry(request, "key.add", key.id, {"name": new.name, "role": new.role}))
    return MadeKey(True, key.id, key.name, new.role, secret)


@routes.delete(
    "/admin/api/keys/{id}",
    needs=Role.ADMIN,
    gives=RevokedKey,
    summary="Revoke a key; its sessions and streams end",
    tags=("keys",),
    problems=(UnknownKey,),
)
async def revoke_key(request: web.Request) -> RevokedKey:
    """Revoke a key: at this node at once, at others within five seconds."""
    front = request.app[FRONT]

    def entry(key: ApiKey) -> AuditEntry:
        return front.entry(request, "key.revoke", key.id, {"name": key.name})

    key = await front.keyring.revoke(request.match_info["id"], entry)
    if key is None:
        raise UnknownKey()
    return RevokedKey(True, key.id, key.name)


@routes.get(
    "/admin/api/audit",
    needs=Role.ADMIN,
    query=AuditQuery,
    gives=AuditPage,
    summary="Who did what, when, from where; newest first",
    tags=("keys",),
)
async def audit_log(request: web.Request, query: AuditQuery) -> AuditPage:
    """A page of the audit log."""
    before = int(query.cursor) if query.cursor else None
    entries = await request.app[FRONT].store.audit_page(query.limit + 1, before)
    more = len(entries) > query.limit
    entries = entries[: query.limit]
    return AuditPage(
        True,
        [
            AuditView(str(e.id), iso(e.at_ms), e.key_id, e.key_name, e.action, e.target, e.address, e.detail)
            for e in entries
        ],
        str(entries[-1].id) if more else None,
    )
