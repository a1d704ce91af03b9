"""The recipients of a new notification: doubles out, and a way to reach each of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_type_hints

import msgspec
from msgspec import Struct

from server.channels import Channels
from server.http.problems import FieldError
from server.model import NewNotification, Person, Preferences, Recipient
from server.settings import Settings
from server.store.rows import chunk_cell
from server.store.writes import CHUNK

MAX_ERRORS = 100


class Vetted(Struct, gc=False):
    """The recipients of one notification, without doubles, ready to be stored."""

    chunks: list[tuple[int, bytes]] = []  # (first ordinal, recipients) as they are stored
    first: list[Person] = []  # the first chunk's
    total: int = 0
    skipped: int = 0
    doublons: int = 0


def vet(
    type_name: str, posted: Sequence[Person], channels: Channels, settings: Settings
) -> tuple[list[FieldError], Vetted]:
    """Look at every recipient once; what is wrong with them, at most `MAX_ERRORS`, and who is left."""
    most = settings.limits.recipients
    if len(posted) > most:
        return [FieldError("/utilisateurs", "field.too_many", {"n": most})], Vetted()
    errors: list[FieldError] = []
    people: dict[str, Person] = {}
    vetted = Vetted()
    for number, person in enumerate(posted):
        if person.id in people:
            vetted.doublons += 1
            continue
        people[person.id] = person
        if not person.preferences.actif:
            vetted.skipped += 1
        elif not channels.reach(type_name, person) and len(errors) < MAX_ERRORS:
            errors.append(_unreachable(f"/utilisateurs/{number}", type_name, person, channels, settings))
    vetted.total = len(people)
    left = list(people.values())
    vetted.first = left[:CHUNK]
    vetted.chunks = [(at, chunk_cell(left[at : at + CHUNK])) for at in range(0, len(left), CHUNK)]
    return errors, vetted


def salvage(raw: dict[str, Any], most: int) -> NewNotification:
    """What fits its type of a body (as JSON) that does not, to be looked at further; each recipient in its place."""
    posted = raw.get("utilisateurs")
    people: list[Any] = posted if isinstance(posted, list) else []
    if len(people) <= most:
        people = [_fitting(person, Recipient) or _nobody(n) for n, person in enumerate(people)]
    rest = {name: _fitting(raw.get(name), kind) for name, kind in _REST.items()}
    return NewNotification(titre="", message="", utilisateurs=people, **rest)


_HINTS = get_type_hints(NewNotification, include_extras=True)
_REST = {name: _HINTS[name] for name in ("planifiee_a", "expire_a", "webhook_url")}


def _fitting(raw: Any, kind: Any) -> Any:
    try:
        return msgspec.convert(raw, kind)
    except msgspec.ValidationError:
        return None


def _nobody(n: int) -> Person:
    """Stands in the place of a recipient that is wrong by its type, with which no more fault is to be found."""
    return Person(id=f"\0{n}", nom="", preferences=Preferences(actif=False))


def _unreachable(pointer: str, type_name: str, person: Person, channels: Channels, settings: Settings) -> FieldError:
    only = settings.types[type_name].channels
    name = person.preferences.canal_prefere
    if name in channels and only and name not in only:
        name = only[0]  # the type's own channels stand in for the preferred one
    channel = channels.get(name)
    if channel is None:
        known = ", ".join(sorted(channels))
        return FieldError(f"{pointer}/preferences/canal_prefere", "field.unknown_channel", {"known": known})
    missing = next((need for need in sorted(channel.notifier.needs) if not getattr(person, need)), "email")
    return FieldError(f"{pointer}/{missing}", f"field.needs_{missing}", {"channel": name})
