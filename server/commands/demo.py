"""`demo`: a realistic mix, sent to a running server at a steady rate, so that the page has something to show.

All declared types and priorities; short lists and long ones, planned ones (some of which are cancelled), recipients who
are inactive, and some who are named twice. Addresses and numbers belong to nobody: example.org, and the telephone
numbers that are set aside for fiction.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from rich.console import Console

from server.commands.common import OK, USAGE, Stop, bars, complain, help_text
from server.commands.remote import Remote, add_flags, connected

TEXTS: dict[str, list[tuple[str, str]]] = {
    "meteo": [
        ("Vigilance orange : vent violent", "Rafales jusqu'à 110 km/h de 14 h à 22 h. Rentrez ce qui peut s'envoler."),
        ("Crue de la Loue", "Le niveau monte de 20 cm par heure. Ne descendez pas dans les caves ni les parkings."),
        ("Neige et verglas", "Circulation difficile ce soir : reportez vos déplacements si possible."),
        ("Canicule", "38 °C attendus demain. Buvez, restez à l'ombre, prenez des nouvelles de vos voisins."),
    ],
    "securite": [
        ("Évacuation du quartier des Tanneurs", "Fuite de gaz. Quittez les lieux à pied vers la place de la Mairie."),
        ("Colis suspect en gare", "La gare est évacuée. Suivez les consignes des agents sur place."),
        ("Incendie à la zone industrielle", "Fumées : fermez portes et fenêtres, coupez la ventilation."),
    ],
    "sante": [
        ("Eau non potable", "Ne buvez pas l'eau du robinet avant nouvel avis. Distribution à la salle des fêtes."),
        ("Don du sang", "Stocks très bas pour le groupe O−. Collecte samedi, de 9 h à 17 h, au gymnase."),
        ("Rappel de produit", "Fromage au lait cru, lot 4217 : ne le consommez pas, rapportez-le en magasin."),
    ],
    "infra": [
        ("Coupure d'électricité", "Travaux rue des Lilas mercredi de 8 h à 12 h. Pensez aux congélateurs."),
        ("Pont de l'Arche fermé", "Déviation par la rocade jusqu'à vendredi soir."),
        ("Collecte des déchets", "Le ramassage du jeudi est avancé à mercredi."),
    ],
}
OTHER = [("Information", "Message de la mairie : rien à faire, tout va bien.")]
FIRST = ("Ana", "Chloé", "Jean", "Léa", "Karim", "Noé", "Aïcha", "Tom", "Zoé", "Hugo", "Inès", "Marc", "Yun", "Élodie")
LAST = (
    "Dupont",
    "Silva",
    "Martin",
    "Benali",
    "Nguyen",
    "Lefèvre",
    "Moreau",
    "Öztürk",
    "Garcia",
    "Petit",
    "Roux",
    "Kaya",
)
PRIORITIES = (None, None, None, "NORMALE", "NORMALE", "HAUTE", "CRITIQUE")
CHANNELS = ("email", "email", "email", "sms", "sms", "app")
SIZES = ((1, 4), (1, 4), (1, 4), (5, 40), (5, 40), (200, 500))


def add(parsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the command."""
    parser = parsers.add_parser(
        "demo",
        help="send a realistic mix, so that the page has something to show",
        description="Send a realistic mix of notifications to a running server. They go out by its channels, to "
        "addresses at example.org and numbers that belong to nobody.",
        epilog=help_text(
            "python run.py demo", "python run.py demo --seconds 600 --rate 5", "python run.py demo --count 40"
        ),
    )
    add_flags(parser)
    parser.add_argument("--seconds", type=float, metavar="S", help="go on for so long (default: 60, without --count)")
    parser.add_argument("--count", type=int, metavar="N", help="end after so many notifications")
    parser.add_argument("--rate", type=float, default=2.0, metavar="R", help="notifications per second (default: 2)")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed makes the same mix")
    parser.add_argument("--yes", action="store_true", help="do it on a server that is not on this machine")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Send until time or number is up, or Ctrl-C."""
    if (
        not 0 < args.rate < math.inf
        or (args.count is not None and args.count < 1)
        or (args.seconds is not None and not 0 < args.seconds < math.inf)
    ):
        raise Stop("--rate, --count, --seconds: expected more than 0", USAGE)
    try:
        return asyncio.run(_demo(args))
    except KeyboardInterrupt:
        return OK


async def _demo(args: argparse.Namespace) -> int:
    seconds = args.seconds if args.seconds is not None else (60.0 if args.count is None else None)
    total = args.count or int((seconds or 0) * args.rate) or 1
    draw = random.Random(args.seed)
    sent = people = 0
    async with connected(args) as remote:
        if not remote.local and not args.yes:
            raise Stop(f"{remote.url} is not on this machine, and a demo sends alarms: add --yes if you mean it", USAGE)
        types = (await remote.get("/api/notifications/types"))["types"]
        begun = time.monotonic()
        with bars(Console(stderr=True)) as progress:
            bar = progress.add_task("notifications", total=total)
            for n in range(total):
                await asyncio.sleep(max(0.0, begun + n / args.rate - time.monotonic()))
                if seconds is not None and time.monotonic() - begun > seconds:
                    break
                kind = types[n % len(types)]
                body = notification(kind["type"], kind["channels"], draw, _now())
                people += await _one(remote, kind["type"], body, draw)
                sent += 1
                progress.advance(bar)
    print(f"{sent} notifications to {people} recipients; see {remote.url}/admin/queue")
    return OK


async def _one(remote: Remote, kind: str, body: dict[str, Any], draw: random.Random) -> int:
    """Send one; some planned ones are cancelled at once. How many recipients it has."""
    headers = {"Idempotency-Key": str(uuid4())}
    answer = await remote.post_again(f"/api/notifications/{kind}", body, headers, tries=6)
    if "planifiee_a" in body and draw.random() < 0.3:
        try:
            await remote.post(f"/api/queue/tasks/{answer['task_id']}/cancel")
        except Stop as stop:
            complain(f"not cancelled: {stop}")
    return len(body["utilisateurs"])


def notification(kind: str, channels: list[str], draw: random.Random, now: datetime) -> dict[str, Any]:
    """One notification of the mix, by `channels`."""
    usual = [name for name in CHANNELS if name in channels] or channels
    titre, message = draw.choice(TEXTS.get(kind, OTHER))
    numbers = draw.sample(range(10_000), draw.randint(*draw.choice(SIZES)))
    people = [_person(n, draw.choice(usual), draw) for n in numbers]
    if draw.random() < 0.15:
        people += people[: 1 + len(people) // 10]  # named twice: told once
    body: dict[str, Any] = {"titre": titre, "message": message, "utilisateurs": people}
    if priority := draw.choice(PRIORITIES):
        body["priorite"] = priority
    if draw.random() < 0.12:
        body["planifiee_a"] = (now + timedelta(seconds=draw.randint(10, 90))).isoformat()
        body["expire_a"] = (now + timedelta(hours=2)).isoformat()
    return body


def _now() -> datetime:
    return datetime.now(UTC)


def _person(number: int, channel: str, draw: random.Random) -> dict[str, Any]:
    first, last = FIRST[number % len(FIRST)], LAST[number // len(FIRST) % len(LAST)]
    person: dict[str, Any] = {
        "id": f"hab-{number:05d}",
        "nom": f"{first} {last}",
        "email": f"habitant{number:05d}@example.org",
        "telephone": f"+3363998{number:04d}",
        "langue": "en" if number % 9 == 0 else "fr",
    }
    preferences: dict[str, Any] = {}
    if channel != "email":
        preferences["canal_prefere"] = channel
    if draw.random() < 0.05:
        preferences["actif"] = False
    return person | ({"preferences": preferences} if preferences else {})
