"""The configuration: the shipped file, what overrides it, and the one line that says what is wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from server.channels import Channels
from server.clock import SystemClock
from server.config import DEFAULT_FILE, ConfigError, Settings, load
from server.model import Priority
from server.settings import Channel, Label, NotificationType, Sections, is_group, kinds

CHANNELS = "email, sms, app"
NETWORK = '("10.0.0.0/8")'
NOTIFY = f'CHANNEL:ADDRESS ("email:astreinte@mairie.fr", of {CHANNELS})'
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LINE = re.compile(r"(?P<out># )?(?P<key>[a-z_]+) = (?P<value>.*?)(?:\s+# (?P<comment>.+))?")


@pytest.fixture
def config(tmp_path):
    """Write a file, read it, with these variables."""

    def config(text: str = "", **variables: str) -> Settings:
        file = tmp_path / "config.toml"
        file.write_text(text, "utf-8")
        return load(file, variables)

    return config


@pytest.fixture
def refusal(config, tmp_path):
    """The one line that a bad configuration is refused with, less its folder."""

    def refusal(text: str = "", **variables: str) -> str:
        with pytest.raises(ConfigError) as caught:
            config(text, **variables)
        line = str(caught.value)
        assert "\n" not in line
        return line.replace(f"{tmp_path}/", "")

    return refusal


# --- the shipped file ------------------------------------------------------------------------


def lines_of(section: str) -> dict[str, re.Match[str]]:
    """The keys that stand under [section] in config.toml, those commented out too."""
    text = DEFAULT_FILE.read_text("utf-8").split(f"\n[{section}]\n", 1)[1].split("\n[", 1)[0]
    return {match["key"]: match for line in text.splitlines() if (match := LINE.fullmatch(line))}


def shipped_tables() -> list[tuple[str, object]]:
    """Each table that has to show all of its keys, with the defaults of its type."""
    tables = [(name, kind()) for name, kind in kinds(Sections).items() if is_group(kind)]
    return [*tables, ("channels.email", Channel()), ("types.meteo", NotificationType())]


@pytest.mark.parametrize(("section", "defaults"), shipped_tables())
def test_the_shipped_file_shows_every_key_with_its_default_and_a_comment(section, defaults):
    lines = lines_of(section)

    assert list(lines) == list(kinds(type(defaults)))
    for key, line in lines.items():
        assert line["comment"], f"{section}.{key} has no comment"
        default = getattr(defaults, key)
        if line["out"]:
            assert default is None, f"{section}.{key} is commented out although it has a default"
        elif section != "types.meteo":  # its own label and priority
            assert tomllib.loads(f"value = {line['value']}")["value"] == default


def test_the_shipped_file_says_nothing_but_the_defaults(config):
    shipped, empty = load(None, {}), config("")

    for name in kinds(Sections):
        assert getattr(shipped, name) == getattr(empty, name)
    assert list(shipped.types) == ["meteo", "securite", "sante", "infra"]
    assert {channel.url for channel in shipped.channels.values()} == {"outbox:data/outbox"}


def test_the_settings_know_their_file_and_its_folder(config, tmp_path):
    settings = config("")

    assert settings.file == tmp_path / "config.toml"
    assert settings.path("data/outbox") == tmp_path / "data/outbox"
    assert settings.path("/var/lib/tocsin") == Path("/var/lib/tocsin")


def test_a_type_is_one_table_and_its_label_may_be_one_string_or_none(config):
    types = config('[types.transport]\nlabel = "Transports"\npriority = "critique"\n[types.crue]\n').types

    assert list(types) == ["transport", "crue"]
    assert types["transport"].priority is Priority.CRITIQUE
    assert types["transport"].label_in("en") == "Transports"
    assert types["crue"].label_in("fr") == "crue"


def test_a_label_is_said_in_the_readers_language():
    settings = load(None, {})

    assert settings.types["meteo"].label == Label(fr="Météo", en="Weather")
    assert [settings.types["meteo"].label_in(langue) for langue in ("fr", "en", "de")] == ["Météo", "Weather", "Météo"]


@pytest.mark.parametrize(
    ("host", "public"),
    [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False), ("tocsin.fr", False)],
)
def test_metrics_are_public_on_loopback_alone(config, host, public):
    assert config(f'[server]\nhost = "{host}"').metrics.public is public
    assert config(f'[server]\nhost = "{host}"\n[metrics]\npublic = true').metrics.public is True


def test_a_file_with_a_byte_order_mark_and_windows_line_ends_is_read(tmp_path):
    file = tmp_path / "config.toml"
    file.write_bytes("\ufeff[queue]\r\nworkers = 7\r\n".encode())

    assert load(file, {}).queue.workers == 7


# --- variables -------------------------------------------------------------------------------


def test_a_variable_overrides_the_file(config):
    settings = config(
        "[queue]\nworkers = 4",
        TOCSIN_QUEUE__WORKERS="8",
        TOCSIN_QUEUE__BACKOFF_S="0.5",
        TOCSIN_AUTH__ADMIN_KEY="12345",
        TOCSIN_METRICS__PUBLIC="false",
        TOCSIN_SERVER__TRUSTED_PROXIES='["10.0.0.0/8", "::1"]',
    )

    assert (settings.queue.workers, settings.queue.backoff_s) == (8, 0.5)
    assert settings.auth.admin_key == "12345"
    assert settings.metrics.public is False
    assert settings.server.trusted_proxies == ["10.0.0.0/8", "::1"]


def test_a_variable_changes_one_shipped_channel_and_leaves_the_others(config):
    channels = config("", TOCSIN_CHANNELS__EMAIL__URL="null:").channels

    assert (channels["email"].url, channels["sms"].url) == ("null:", "outbox:data/outbox")


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, "config.toml: channels.sms.url"),
        ({"TOCSIN_CHANNELS__EMAIL__URL": "null:"}, "config.toml: channels.sms.url"),
        ({"TOCSIN_CHANNELS__SMS__URL": "foo:bar"}, "TOCSIN_CHANNELS__SMS__URL"),
        ({"TOCSIN_CHANNELS__SMS": '{ url = "foo:bar" }'}, "TOCSIN_CHANNELS__SMS: url"),
    ],
)
def test_a_url_that_no_notifier_knows_is_said_of_the_file_or_of_the_variable(config, tmp_path, variables, place):
    settings = config('[channels.email]\n[channels.sms]\nurl = "foo:bar"', **variables)

    with pytest.raises(ConfigError) as caught:
        Channels(settings, SystemClock())

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith(f"{place}: expected ")


def test_a_body_that_is_no_template_is_said_of_its_own_key(config, tmp_path):
    settings = config('[channels.sms]\nurl = "https://sms.example.org/send"\nbody = "{titre}"')

    with pytest.raises(ConfigError) as caught:
        Channels(settings, SystemClock())

    assert str(caught.value).replace(f"{tmp_path}/", "").startswith("config.toml: channels.sms.body: expected JSON")


def test_a_variable_finds_a_channel_whatever_its_case_and_dashes(config):
    settings = config('[channels.Sms-Secours]\nurl = "null:"', TOCSIN_CHANNELS__SMS_SECOURS__CONCURRENCY="3")

    assert {name: channel.concurrency for name, channel in settings.channels.items()} == {"Sms-Secours": 3}


def test_a_variable_can_make_a_type_and_a_whole_table(config):
    types = config(
        "", TOCSIN_TYPES__CRUE__LABEL="Crue", TOCSIN_TYPES__GEL='{ label = "Gel", priority = "HAUTE" }'
    ).types

    assert types["crue"].label_in("fr") == "Crue"
    assert (types["gel"].label_in("fr"), types["gel"].priority) == ("Gel", Priority.HAUTE)


def test_a_variable_for_a_key_wins_over_one_for_its_table(config):
    queue = config("", TOCSIN_QUEUE__WORKERS="3", TOCSIN_QUEUE="{ workers = 9, max_attempts = 7 }").queue

    assert (queue.workers, queue.max_attempts) == (3, 7)


def test_variables_that_are_no_settings_are_left_alone(config):
    assert config("", TOCSIN_URL="http://localhost:5000", TOCSIN_KEY="x", HOME="/root").queue.workers == 2


# --- secrets ---------------------------------------------------------------------------------


def test_a_secret_may_stand_in_a_variable_or_in_a_file(config, tmp_path):
    (tmp_path / "key").write_text("from-a-file\n")

    settings = config(
        f'[auth]\nadmin_key = "file:key"\n[webhooks]\nsecrets = ["env:HOOK", "{WHSEC}"]\n'
        '[channels.email]\nurl = "env:MAIL"\n[store]\nurl = "env:DB"',
        HOOK=WHSEC,
        MAIL="smtp://u:p@mail.example?from=a@b.fr",
        DB="postgresql://u:p@db/tocsin",
    )

    assert settings.auth.admin_key == "from-a-file"
    assert settings.webhooks.secrets == [WHSEC, WHSEC]
    assert settings.channels["email"].url.startswith("smtp://")
    assert settings.store.url == "postgresql://u:p@db/tocsin"


def test_a_variable_may_name_a_secret_too(config):
    assert config("", TOCSIN_AUTH__ADMIN_KEY="env:THE_KEY", THE_KEY="k").auth.admin_key == "k"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[auth]\nadmin_key = "env:NONE"', "auth.admin_key: expected a secret in the variable NONE, which is not set"),
        ('[auth]\nadmin_key = "file:gone"', "auth.admin_key: expected a secret in the file gone, which cannot be read"),
        ('[auth]\nadmin_key = "file:\\u0000"', "auth.admin_key: expected a secret in the file �, which cannot be read"),
        ('[webhooks]\nsecrets = ["env:A"]', "webhooks.secrets: expected a secret in the variable A, which is not set"),
        ('[channels.sms]\nurl = "env:A"', "channels.sms.url: expected a secret in the variable A, which is not set"),
    ],
)
def test_a_missing_secret_stops_the_start(refusal, text, line):
    assert refusal(text) == f"config.toml: {line}"


@pytest.mark.parametrize(
    "text",
    [
        '[auth]\nadmin_key = "hunter2 é"',
        '[auth]\nadmin_key = ["hunter2"]',
        '[webhooks]\nsecrets = ["hunter2"]',
        '[webhooks]\nsecrets = "hunter2"',
        '[webhooks]\nsecrets = ["whsec_hunter2!"]',
        '[store]\nurl = "mysql://u:hunter2@db"',
        '[store]\nurl = { password = "hunter2" }',
        '[channels.email]\nurl = ["smtp://u:hunter2@mail"]',
        'auth = "hunter2"',
        '[channels]\nemail = "smtp://u:hunter2@mail"',
        "[auth]\nadmin_key = hunter2",
    ],
)
def test_no_refusal_shows_a_secret(refusal, text):
    assert "hunter2" not in refusal(text)


def test_settings_print_without_their_secrets(config):
    settings = config('[auth]\nadmin_key = "hunter2"\n[channels.email]\nurl = "smtp://u:hunter2@mail"')

    assert "hunter2" not in f"{settings!r} {settings} {settings.channels}"
    assert "workers=2" in repr(settings)


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[queue]\nworkers = -1", "queue.workers: expected an integer from 0 to 1000, got -1"),
        ('[queue]\nworkers = "two"', 'queue.workers: expected an integer from 0 to 1000, got "two"'),
        ("[queue]\nworkers = 1.5", "queue.workers: expected an integer from 0 to 1000, got 1.5"),
        ("[queue]\nworkers = true", "queue.workers: expected an integer from 0 to 1000, got true"),
        ("[queue]\nlease_s = 2", "queue.lease_s: expected a number from 3 to 3600, got 2"),
        ("[queue]\nlease_s = nan", "queue.lease_s: expected a number from 3 to 3600, got nan"),
        ("[queue]\nbackoff_s = inf", "queue.backoff_s: expected a number from 0 to 86400, got inf"),
        ("[server]\nport = 65536", "server.port: expected an integer from 0 to 65535, got 65536"),
        ("[server]\nport = 2026-01-01", "server.port: expected an integer from 0 to 65535, got a date or time"),
        ('[server]\nhost = ""', 'server.host: expected a string that is not empty, got ""'),
        ("[events]\nstall_s = 0", "events.stall_s: expected a number over 0, up to 86400, got 0"),
        ("[alerts]\nfailure_ratio = 1.2", "alerts.failure_ratio: expected a number over 0, up to 1, got 1.2"),
        ('[metrics]\npublic = "yes"', 'metrics.public: expected true or false, got "yes"'),
        ("[queue]\nwokers = 2", "queue.wokers: unknown key, expected workers"),
        ("[metrics]\nxyz = 2", "metrics.xyz: unknown key, expected one of public"),
        ("[ques]\n", "ques: unknown key, expected queue"),
        ("queue = 3", "queue: expected a table, got a number"),
        ("channels = []", "channels: expected a table, got a list"),
        ('[channels.a]\nfallback = "b"', 'channels.a.fallback: expected another one of the channels (a), got "b"'),
        ('[channels.a]\nfallback = "a"', 'channels.a.fallback: expected another one of the channels (a), got "a"'),
        ('[channels."a b"]\n', "channels.a b: expected a name of up to 64 letters, digits, - and _"),
        ('[types.crue]\npriority = "HIGH"', 'types.crue.priority: expected CRITIQUE, HAUTE or NORMALE, got "HIGH"'),
        ("[types.crue]\npriority = 4", "types.crue.priority: expected CRITIQUE, HAUTE or NORMALE, got 4"),
        ('[types.crue]\nchannels = ["fax"]', 'types.crue.channels: expected channels (email, sms, app), got "fax"'),
        ('[types.gel]\nlabel = { fr = "Gel" }', "types.gel.label.en: expected a string that is not empty, got nothing"),
        ("[types.types]\n", "types.types: expected another name: /api/notifications/types lists the types"),
        ('[alerts]\nnotify = ["a@b.fr"]', f'alerts.notify: expected {NOTIFY}, got "a@b.fr"'),
        ('[alerts]\nnotify = ["email: "]', f'alerts.notify: expected {NOTIFY}, got "email: "'),
        (
            '[server]\ntrusted_proxies = ["10.0.0.1/8"]',
            f'server.trusted_proxies: expected an address or a network {NETWORK}, got "10.0.0.1/8"',
        ),
        (
            '[webhooks]\nallow = ["http://a.fr"]',
            f'webhooks.allow: expected a host or a network {NETWORK}, got "http://a.fr"',
        ),
        (
            '[webhooks]\nallow = ["10.0.0.300"]',
            f'webhooks.allow: expected a host or a network {NETWORK}, got "10.0.0.300"',
        ),
        ('[server]\ntls_cert = "cert.pem"', 'server.tls_cert: expected a readable file, got "cert.pem"'),
        ('[server]\ntls_key = "a\\u0000"', 'server.tls_cert: expected a file, since server.tls_key is given, got ""'),
        ("[queue\n", "expected TOML: Expected ']' at the end of a table declaration (at line 1, column 7)"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(refusal, text, line):
    assert refusal(text) == f"config.toml: {line}"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("TOCSIN_QUEUE__WORKERS", "two", 'expected an integer from 0 to 1000, got "two"'),
        ("TOCSIN_QUEUE__WORKERS", "1\n[auth]", 'expected an integer from 0 to 1000, got "1\\n[auth]"'),
        ("TOCSIN_QUEUE", "{ workers = -1 }", "workers: expected an integer from 0 to 1000, got -1"),
        ("TOCSIN_QUEUE__WOKERS", "2", "unknown key queue.wokers, expected one of workers, express_workers, lease_s, "),
        ("TOCSIN_QUEUE__WORKERS__N", "2", "unknown key queue.workers.n, expected nothing after it"),
        ("TOCSIN_QUEUE_WORKERS", "2", "unknown variable, expected TOCSIN_QUEUE__WORKERS (two underscores)"),
        ("TOCSIN_X__Y", "2", "unknown key x, expected one of server, "),
        ("TOCSIN_SERVER__TRUSTED_PROXIES", "10.0.0.1", 'expected a list of strings (["a", "b"]), got "10.0.0.1"'),
        ("TOCSIN_CHANNELS__EMAIL__FALLBACK", "fax", f'expected another one of the channels ({CHANNELS}), got "fax"'),
        ("TOCSIN_AUTH__ADMIN_KEY", "env:NONE", "expected a secret in the variable NONE, which is not set"),
    ],
)
def test_a_bad_variable_is_named_in_the_place_of_the_file(refusal, variable, value, line):
    refused = refusal("", **{variable: value})

    assert refused.startswith(f"{variable}: {line}")


@pytest.mark.parametrize("name", ["SERVER__PORT", "METRICS__PUBLIC", "WEBHOOKS__ALLOW", "WEBHOOKS__SECRETS"])
def test_a_variable_that_is_no_utf_8_is_refused_in_one_line(refusal, name):
    assert re.match(rf"TOCSIN_{name}: expected (an integer|true or|a list)", refusal(**{f"TOCSIN_{name}": "\udcff"}))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: expected a configuration file: No such file"):
        load(tmp_path / "nowhere.toml", {})


@given(st.binary(max_size=200))
@example(b"\xff")
@example(b"[" * 100_000)
@example(b"a = " + b"[" * 100_000)
@example(b"[queue]\nworkers = " + b"9" * 10_000)
@example(b"[queue]\nbackoff_s = 1e999")
@example(b"[queue]\nlease_s = " + b"9" * 400)
@example(b"[types.crue]\npriority = inf")
@example(b"[types.crue]\npriority = 2026-11-24")
def test_no_file_raises_anything_but_a_refusal(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(data)

    one_line_or_settings(file, {})


SECTION = st.sampled_from([*kinds(Sections), "CHANNELS__EMAIL", "TYPES__METEO", "TYPES__METEO__LABEL", "X"])
GROUPS = [kind for kind in kinds(Sections).values() if is_group(kind)]
KEY = st.sampled_from([*sorted({key for kind in GROUPS for key in kinds(kind)}), "FR"])
ODD = ["env:X", "file:/", "file:\0", "[]", "{}", "[[]]", "[1]", "-1", "nan", "1e400", "1979-05-27", '{"" = 1}']
VALUE = st.one_of(st.text(), st.sampled_from(ODD), st.just("[" * 9_999))


@given(st.dictionaries(st.builds("TOCSIN_{}__{}".format, SECTION, KEY) | st.builds("TOCSIN_{}".format, SECTION), VALUE))
def test_no_variable_raises_anything_but_a_refusal(variables):
    one_line_or_settings(DEFAULT_FILE, {name.upper(): value for name, value in variables.items()})


def one_line_or_settings(file: Path, variables: dict[str, str]) -> None:
    """Load; a refusal has to be one printable line."""
    try:
        load(file, variables)
    except ConfigError as error:
        assert str(error).isprintable()
