"""The recipients of a new notification: doubles out, and a way to reach each of the others."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from server.channels import Channels
from server.http.problems import FieldError
from server.model import Person
from server.settings import Settings
from server.store.rows import chunk_cell
from server.store.writes import CHUNK

MAX_ERRORS = 100


class Vetted(Struct):
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
