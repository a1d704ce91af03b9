"""Recipients as spreadsheets write them: which columns there are, what they may be called, what a cell may say.

The command line reads files by it, and the page is handed the same (`web/static/js/recipients.js`), so that one file
does for both. What a recipient must be in the end is the model's affair.
"""

from __future__ import annotations

import re
import unicodedata

COLUMNS: dict[str, tuple[str, ...]] = {
    "id": ("identifiant", "matricule", "ref", "reference"),
    "nom": ("name", "nom complet", "prenom nom", "fullname", "full name"),
    "email": ("e-mail", "mail", "courriel", "adresse e-mail", "adresse email"),
    "telephone": ("tel", "phone", "mobile", "portable", "numero"),
    "langue": ("lang", "language"),
    "canal_prefere": ("canal", "canal prefere", "channel"),
    "actif": ("active",),
}
"""Each column and its other names; case and accents do not matter."""
SEPARATORS = (";", "\t", ",")
YES = ("", "1", "true", "vrai", "oui", "yes", "o", "y", "x", "actif")
NO = ("0", "false", "faux", "non", "no", "n", "inactif")
SHIPPED_CHANNELS = ("email", "sms", "app")  # these are known in any case: SMS, Email
_NAMES = {name: column for column, others in COLUMNS.items() for name in (column, *others)}


def plain(text: str) -> str:
    """`Téléphone ` as `telephone`."""
    decomposed = unicodedata.normalize("NFD", text.strip().lower())
    return "".join(char for char in decomposed if not 0x300 <= ord(char) <= 0x36F)


def column(head: str) -> str | None:
    """The column that a header's cell names; None for none."""
    return _NAMES.get(plain(head))


def separator(head: str) -> str:
    """What stands between the cells of a header line."""
    return max(SEPARATORS, key=head.count)


def phone(text: str) -> str:
    """What people write for a number, as E.164 where that is certain: `00 33 (0)6.12.34.56.78` as `+33612345678`.

    The 0 in brackets is for calls from within the country; behind the country's own number it is not dialled.
    """
    text = re.sub(r"^(\+|00)(.*?)\(\s*0\s*\)", r"\1\2", text)
    return re.sub(r"^00", "+", re.sub(r"[\s.()/-]", "", text))


def active(text: str) -> bool | None:
    """What the column `actif` says; None where it is neither yes nor no."""
    word = plain(text)
    return True if word in YES else False if word in NO else None


def person(cells: dict[str, str]) -> dict[str, object]:
    """A line's cells as the API's recipient; an empty cell is one left out.

    Who has no id goes by address or number, who has no name by the id. Without a channel of their own, those who have
    only a telephone are reached by sms: there is no other way.
    """
    given = {name: text.strip() for name, text in cells.items() if text.strip()}
    email, telephone = given.get("email"), phone(given.get("telephone", ""))
    found: dict[str, object] = {}
    if key := given.get("id") or email or telephone:
        found |= {"id": key, "nom": given.get("nom") or key}
    elif "nom" in given:
        found["nom"] = given["nom"]
    if email:
        found["email"] = email
    if telephone:
        found["telephone"] = telephone
    if langue := given.get("langue", "").lower():
        found["langue"] = langue
    preferences: dict[str, object] = {}
    if channel := given.get("canal_prefere"):
        preferences["canal_prefere"] = channel.lower() if channel.lower() in SHIPPED_CHANNELS else channel
    elif telephone and not email:
        preferences["canal_prefere"] = "sms"
    if active(given.get("actif", "")) is False:
        preferences["actif"] = False
    if preferences:
        found["preferences"] = preferences
    return found
