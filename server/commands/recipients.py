"""Recipients, and whole notifications, out of files and flags: JSON as the API takes it, CSV as spreadsheets save it.

What a line of CSV says is checked here, so that the line can be named; JSON is left to the server, which names the
place by a pointer.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from typing import Any

import msgspec

from server.commands.common import USAGE, Stop, listed, read_text
from server.http.complaints import complaints
from server.http.problems import sentence
from server.model import Recipient
from server.spreadsheet import COLUMNS, active, column, person, separator


def read_file(path: str) -> dict[str, Any]:
    """What a file holds, as a part of a notification's body: `utilisateurs`, and the rest if it is a whole one."""
    text = read_text(path)
    if path.lower().endswith(".csv"):
        return {"utilisateurs": read_csv(text, path)}
    try:
        value = json.loads(text, parse_constant=_no_number)
        msgspec.json.encode(value)
    except json.JSONDecodeError as error:
        hint = "" if path.lower().endswith(".json") or path == "-" else " (a CSV file's name must end in .csv)"
        raise Stop(f"{path}, line {error.lineno}: expected JSON: {error.msg}{hint}", USAGE) from None
    except (ValueError, RecursionError, OverflowError) as error:  # what Python takes for JSON, and the server does not
        raise Stop(f"{path}: expected JSON: {str(error)[:100]}", USAGE) from None
    if isinstance(value, list):
        return {"utilisateurs": value}
    if isinstance(value, dict) and ("utilisateurs" in value or "titre" in value):
        if not isinstance(value.get("utilisateurs", []), list):
            raise Stop(f"{path}: utilisateurs: expected a list of recipients", USAGE)
        return value
    raise Stop(f"{path}: expected a list of recipients, or a notification with titre, message, utilisateurs", USAGE)


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def read_csv(text: str, name: str) -> list[dict[str, Any]]:
    """Recipients out of CSV text: a header line, then one a line. Raises Stop, naming the line."""
    head = text.lstrip("\r\n").split("\n", 1)[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator(head), strict=True)
    columns: list[str] = []
    people: list[dict[str, Any]] = []
    line = 1
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                where = f"{name}, line {line}"
                if columns:
                    people.append(_person(dict(_cells(columns, row, where)), where))
                else:
                    columns = _header(row, where)
            line = reader.line_num + 1
    except csv.Error as error:
        raise Stop(f"{name}, line {line}: expected CSV: {error}", USAGE) from None
    if not people:
        raise Stop(f"{name}: expected a header line ({listed(COLUMNS)}) and recipients below it", USAGE)
    return people


def _header(row: list[str], where: str) -> list[str]:
    columns = [column(cell) or "" for cell in row]
    if unknown := [cell for cell, name in zip(row, columns, strict=True) if not name]:
        raise Stop(f"{where}: expected a header of {listed(COLUMNS)}; got {listed(map(repr, unknown))}", USAGE)
    if len(set(columns)) < len(columns) or not {"id", "email", "telephone"} & set(columns):
        raise Stop(f"{where}: expected a header of {listed(COLUMNS)}, each once; got {listed(columns)}", USAGE)
    return columns


def _cells(columns: list[str], row: list[str], where: str) -> list[tuple[str, str]]:
    if len(row) != len(columns):
        raise Stop(f"{where}: expected {len(columns)} fields, got {len(row)}", USAGE)
    return [(name, cell.strip()) for name, cell in zip(columns, row, strict=True)]


def _person(cells: dict[str, str], where: str) -> dict[str, Any]:
    """A line's cells as the API's recipient. Raises Stop for what is wrong with them."""
    if active(cells.get("actif", "")) is None:
        raise Stop(f"{where}: actif: expected oui or non, got {cells['actif']!r}", USAGE)
    found = person(cells)
    if wrong := complaints(found, Recipient):
        said = "; ".join(f"{error.where.strip('/')}: {sentence(error, 'en')}" for error in wrong)
        raise Stop(f"{where}: {said}", USAGE)
    return found


def read_flag(value: str) -> dict[str, Any]:
    """`--to "id,nom,email"`; one with a telephone number there is reached by sms. Raises ArgumentTypeError."""
    parts = [part.strip() for part in value.split(",")]
    if len(parts) != 3 or not all(parts):
        raise argparse.ArgumentTypeError(f'expected "id,nom,email" or "id,nom,+33…", got {value!r}')
    cells = dict(zip(("id", "nom", "email"), parts, strict=True))
    if parts[2].startswith("+"):
        cells = {"id": parts[0], "nom": parts[1], "telephone": parts[2]}
    try:
        return _person(cells, repr(value))
    except Stop as stop:
        raise argparse.ArgumentTypeError(str(stop)) from None
