"""The settings: config.toml and the TOCSIN_… environment, read once into frozen types.

Whatever does not fit is said in one line that names file (or variable), key and what is expected, and nothing starts
on half a configuration. A secret's value stands in no message and in no repr. What a channel's URL
means is left to the notifiers.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
import json
import os
import re
import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from server.model import Priority, parse_priority
from server.settings import (
    CHANNELS,
    DEFAULT_FILE,
    TYPES,
    Channel,
    Label,
    Metrics,
    NotificationType,
    Sections,
    Settings,
    is_group,
    is_secret,
    kinds,
    place,
    table_of,
)

__all__ = ["Channel", "ConfigError", "Label", "NotificationType", "Settings", "load"]

PREFIX = "TOCSIN_"
HOST = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)")  # one label of it
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a channel or a type: stands in URLs, files and variables


class ConfigError(Exception):
    """The configuration cannot be used; the text is one printable line for the operator."""

    def __init__(self, text: str) -> None:
        super().__init__("".join(char if char.isprintable() else "�" for char in text[:500]))


# --- reading it --------------------------------------------------------------------------------

Key = tuple[str, ...]


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read `path` (None: the config.toml beside run.py), put the environment over it, check everything.

    Raises ConfigError, whatever the file or the environment holds.
    """
    file = (path or DEFAULT_FILE).absolute()
    name_of_file = short(file)
    table = read(file, name_of_file)
    # The shipped channels and types stand in where the file has none, so that a variable may change one of them.
    for name, shipped in (("channels", CHANNELS), ("types", TYPES)):
        table.setdefault(name, msgspec.to_builtins(shipped))
    reader = Reader(name_of_file, file.parent, environ)
    reader.overlay(table)
    sections = reader.group((), Sections, table)
    fields = {name: getattr(sections, name) for name in kinds(Sections)}
    settings = fill(Settings(**fields, file=file, base_dir=file.parent, variables=reader.variables))
    check(reader, settings)
    return settings


def short(file: Path) -> str:
    """The file's name for messages: as one sees it from where one stands."""
    try:
        return str(file.relative_to(Path.cwd()))
    except (OSError, ValueError):
        return str(file)


def read(file: Path, name: str) -> dict[str, Any]:
    """The file as nested dicts. Raises ConfigError."""
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{name}: expected a configuration file: {error.strerror or 'cannot be read'}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: expected UTF-8 text, got another byte at offset {error.start}") from None
    except RecursionError:
        raise ConfigError(f"{name}: expected TOML, got brackets nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, and what int() says of a number with thousands of digits
        raise ConfigError(f"{name}: expected TOML: {error}") from None


class Reader:
    """Turns nested dicts into settings, and knows for each key where its value came from."""

    def __init__(self, file: str, base_dir: Path, environ: Mapping[str, str]) -> None:
        self.file = file
        self.base_dir = base_dir
        self.environ = environ
        self.variables: dict[Key, str] = {}

    def error(self, key: Key, text: str) -> ConfigError:
        """`FILE: KEY: text`, or `VARIABLE: text` where the environment gave the value."""
        return ConfigError(f"{place(self.file, self.variables, key)}: {text}")

    def overlay(self, table: dict[str, Any]) -> None:
        """Put the TOCSIN_SECTION__KEY variables over the file's values; whole tables first."""
        found = [name for name in self.environ if name.upper().startswith(PREFIX)]
        found.sort(key=lambda name: (name.count("__"), name))
        for variable in found:
            words = variable[len(PREFIX) :].lower().split("__")
            if len(words) == 1:
                self.single(variable, words[0])
                if words[0] not in kinds(Sections):
                    continue  # not ours: TOCSIN_URL and the like belong to clients
            key, kind, at = self.find(variable, words, table)
            self.variables[key] = variable
            at[key[-1]] = from_variable(self.environ[variable], kind)

    def single(self, variable: str, word: str) -> None:
        """Raise for TOCSIN_QUEUE_WORKERS: left in silence, it would seem to work."""
        for section, kind in kinds(Sections).items():
            if word.startswith(section + "_") and is_group(kind) and word[len(section) + 1 :] in kinds(kind):
                meant = f"{PREFIX}{section}__{word[len(section) + 1 :]}".upper()
                raise ConfigError(f"{variable}: unknown variable, expected {meant} (two underscores)")

    def find(self, variable: str, words: list[str], table: dict[str, Any]) -> tuple[Key, Any, dict[str, Any]]:
        """The key that `words` name, its type, and the dict that holds it. Raises ConfigError where there is none."""
        kind: Any = Sections
        key: list[str] = []
        for depth, word in enumerate(words):
            if key:
                inner = table.setdefault(key[-1], {})
                if not isinstance(inner, dict):
                    raise self.error(tuple(key), f"expected a table, got {named(inner)}")
                table = inner
            if of := table_of(kind):  # channels and types: a new name makes a new one; a dash is written as _
                word = next((name for name in table if name.lower().replace("-", "_") == word), word)
                kind = of
            elif is_group(kind) and word in kinds(kind):
                kind = kinds(kind)[word]
            else:
                choice = f"expected one of {', '.join(kinds(kind))}" if is_group(kind) else "expected nothing after it"
                raise ConfigError(f"{variable}: unknown key {'.'.join(words[: depth + 1])}, {choice}")
            key.append(word)
        return tuple(key), kind, table

    def group(self, key: Key, kind: type[Any], value: Any) -> Any:
        """`value` as the Struct `kind`, field by field, so that an error knows its key."""
        if not isinstance(value, dict):
            raise self.error(key, f"expected a table, got {named(value)}")
        known = kinds(kind)
        for name in value:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1) or [f"one of {', '.join(known)}"]
                raise self.error((*key, name), f"unknown key, expected {near[0]}")
        for name in kind.__struct_fields__[: len(known)]:
            if name not in value and name in REQUIRED.get(kind, ()):
                raise self.error((*key, name), f"expected {expectation(known[name])}, got nothing")
        return kind(**{name: self.value((*key, name), known[name], inner) for name, inner in value.items()})

    def value(self, key: Key, kind: Any, value: Any) -> Any:
        """One value as its type, its secrets resolved."""
        if of := table_of(kind):
            if not isinstance(value, dict):
                raise self.error(key, f"expected a table, got {named(value)}")
            for name in value:
                if not NAME.fullmatch(name):
                    raise self.error((*key, name), "expected a name of up to 64 letters, digits, - and _")
            return {name: self.group((*key, name), of, inner) for name, inner in value.items()}
        if is_group(kind):
            return self.group(key, kind, value)
        if kind == str | Label and isinstance(value, dict):
            return self.group(key, Label, value)
        if kind is Priority:
            return self.priority(key, value)
        if is_secret(kind):
            value = [self.secret(key, item) for item in value] if isinstance(value, list) else self.secret(key, value)
        try:
            return msgspec.convert(value, kind)
        except (msgspec.ValidationError, UnicodeError):  # UnicodeError: a variable that is no UTF-8
            got = "another value (not shown: it may be secret)" if is_secret(kind) else shown(value)
            raise self.error(key, f"expected {expectation(kind)}, got {got}") from None

    def priority(self, key: Key, value: Any) -> Priority:
        """`HAUTE`, `haute`, `2`."""
        try:
            return parse_priority(value if isinstance(value, str) else str(int(value)))
        except (ValueError, TypeError, OverflowError):
            raise self.error(key, f"expected {expectation(Priority)}, got {shown(value)}") from None

    def secret(self, key: Key, value: Any) -> Any:
        """`env:NAME` and `file:PATH` as what they name; anything else as it stands."""
        if not isinstance(value, str):
            return value
        scheme, _, name = value.partition(":")
        if scheme == "env":
            found = self.environ.get(name, "")
            if not found:
                raise self.error(key, f"expected a secret in the variable {name}, which is not set")
            return found
        if scheme == "file":
            try:
                found = (self.base_dir / name).read_text("utf-8").strip()
            except (OSError, ValueError):
                raise self.error(key, f"expected a secret in the file {name}, which cannot be read") from None
            if not found:
                raise self.error(key, f"expected a secret in the file {name}, which is empty")
            return found
        return value


REQUIRED = {Label: ("fr", "en")}


def fill(settings: Settings) -> Settings:
    """Put in what depends on other settings: a type without a label is called by its name."""
    types = {
        name: kind if kind.label else msgspec.structs.replace(kind, label=name) for name, kind in settings.types.items()
    }
    public = settings.metrics.public
    metrics = Metrics(public=is_loopback(settings.server.host) if public is None else public)
    return msgspec.structs.replace(settings, types=types, metrics=metrics)


# --- what holds between keys -------------------------------------------------------------------


def check(reader: Reader, settings: Settings) -> None:
    """Raise ConfigError for values that fit their types and still cannot work."""

    def expect(good: object, key: Key, expected: str, got: object) -> None:
        if not good:
            raise reader.error(key, f"expected {expected}, got {shown(got)}")

    server = settings.server
    for name, other in (("tls_cert", "tls_key"), ("tls_key", "tls_cert")):
        value = getattr(server, name)
        expect(value or not getattr(server, other), ("server", name), f"a file, since server.{other} is given", value)
        expect(not value or is_file(settings.path(value)), ("server", name), "a readable file", value)
    for proxy in server.trusted_proxies:
        expect(is_network(proxy), ("server", "trusted_proxies"), 'an address or a network ("10.0.0.0/8")', proxy)
    for host in settings.webhooks.allow:
        expect(is_network(host) or is_host(host), ("webhooks", "allow"), 'a host or a network ("10.0.0.0/8")', host)
    if not settings.store.url.startswith(("sqlite:", "postgresql://", "postgres://")):
        raise reader.error(("store", "url"), "expected sqlite:FILE or postgresql://…, got another scheme")
    if not re.fullmatch(r"[!-~]*", settings.auth.admin_key):  # it has to fit in a header
        raise reader.error(("auth", "admin_key"), "expected printable ASCII without spaces, got other characters")
    for n, secret in enumerate(settings.webhooks.secrets, 1):
        if not is_webhook_secret(secret):
            raise reader.error(("webhooks", "secrets"), f"expected whsec_ and base64, got something else in place {n}")

    names = ", ".join(settings.channels)
    for name, channel in settings.channels.items():
        fine = not channel.fallback or (channel.fallback in settings.channels and channel.fallback != name)
        expect(fine, ("channels", name, "fallback"), f"another one of the channels ({names})", channel.fallback)
    for name, kind in settings.types.items():
        if name == "types":
            raise reader.error(("types", name), "expected another name: /api/notifications/types lists the types")
        for channel_name in kind.channels:
            expect(channel_name in settings.channels, ("types", name, "channels"), f"channels ({names})", channel_name)
    for address in settings.alerts.notify:
        channel_name, _, to = address.partition(":")
        good = channel_name in settings.channels and to.strip() and to.isprintable()
        expect(good, ("alerts", "notify"), f'CHANNEL:ADDRESS ("email:astreinte@mairie.fr", of {names})', address)


def is_file(path: Path) -> bool:
    """Is there a file that can be read? A NUL in the name is a no, not an exception."""
    try:
        return path.is_file() and os.access(path, os.R_OK)
    except (OSError, ValueError):
        return False


def is_loopback(host: str) -> bool:
    """Does a server that listens there hear this machine alone?"""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_network(text: str) -> bool:
    """An IP address, or a network without host bits."""
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def is_host(text: str) -> bool:
    """A host name; what looks like an IP address is none."""
    return len(text) <= 253 and all(map(HOST.fullmatch, text.split("."))) and not re.fullmatch(r"[0-9.]+", text)


def is_webhook_secret(text: str) -> bool:
    """`whsec_` and base64, as Standard Webhooks has it."""
    try:
        return text.startswith("whsec_") and bool(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except (binascii.Error, ValueError):
        return False


# --- words for types and values ------------------------------------------------------------------


def from_variable(text: str, kind: Any) -> Any:
    """A variable's text as the file would have it: as it stands for a string, else as TOML."""
    base = typing.get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    if base is str or kind is Priority:
        return text
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    if set(parsed) != {"value"} or (kind == str | Label and not isinstance(parsed["value"], dict)):
        return text
    return parsed["value"]


def expectation(kind: Any) -> str:
    """A type in words: `an integer from 0 to 1000`."""
    if kind is Priority:
        return "CRITIQUE, HAUTE or NORMALE"
    if kind == str | Label:
        return 'a string or a table { fr = "…", en = "…" }'
    info = msgspec.inspect.type_info(kind)
    if isinstance(info, msgspec.inspect.Metadata):
        info = info.type
    match info:
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            word = "an integer" if isinstance(info, msgspec.inspect.IntType) else "a number"
            low = f"over {info.gt:g}" if info.gt is not None else f"from {info.ge}"
            return f"{word} {low} to {info.le}" if info.gt is None else f"{word} {low}, up to {info.le}"
        case msgspec.inspect.StrType():
            return "a string" if info.min_length is None else "a string that is not empty"
        case msgspec.inspect.ListType():
            return 'a list of strings (["a", "b"])'
        case _:
            return "true or false"


def named(value: Any) -> str:
    """What kind of thing it is, for values that are not to be shown."""
    match value:
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list"
        case dict():
            return "a table"
        case _:
            return "a date or time"


def shown(value: Any) -> str:
    """A value for an error text: short, on one line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 80 else text[:78] + '…"'
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value) if abs(value) < 10**30 else "a huge number"
    return named(value)
