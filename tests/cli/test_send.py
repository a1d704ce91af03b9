"""`send`: what it makes of flags and files, how it follows its task, and what it says when things go wrong."""

from __future__ import annotations

import asyncio
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from notifiers import Refused
from server.cli import main
from server.commands.recipients import read_csv
from server.model import Role
from tests.cli.conftest import Cli
from tests.kit import ADMIN_KEY, Town

SEND = ("send", "--type", "meteo", "--titre", "Tempête", "--message", "Rentrez.")
ANA = ("--to", "u1,Ana Silva,ana@example.org")


async def test_it_sends_and_follows_to_the_end(town: Town, cli: Cli) -> None:
    email, sms = town.service("email"), town.service("sms")

    ran = await cli(*SEND, *ANA, "--to", "u2,Jean,+33 6 39 98 00 01")

    assert ran.code == 0
    assert "completed, 2 of 2 reached" in ran.out
    assert "\x1b" not in ran.out + ran.err
    assert (email.calls[0].titre, email.calls[0].message, email.calls[0].email) == (
        "Tempête", "Rentrez.", "ana@example.org",
    )  # fmt: skip
    assert sms.reached == ["u2"]


async def test_it_ends_with_3_where_not_everybody_was_reached(town: Town, cli: Cli) -> None:
    town.service("email").will(Refused("address_refused", "550"))

    ran = await cli(*SEND, *ANA)

    assert ran.code == 3
    assert "failed, 0 of 1 reached: 1 recipient of 1 not reached" in ran.out


async def test_json_is_the_task_and_nothing_else(town: Town, cli: Cli) -> None:
    ran = await cli(*SEND, *ANA, "--priorite", "critique", "--json")

    task = json.loads(ran.out)
    assert (task["status"], task["priority"], task["progress"]["sent"]) == ("completed", "CRITIQUE", 1)


async def test_without_waiting_it_ends_once_it_is_accepted(town: Town, cli: Cli) -> None:
    await town.post("/admin/api/queue/pause")

    ran = await cli(*SEND, *ANA, "--no-wait", "--planifiee-a", "2023-11-27T08:00:00+01:00", "--json")

    assert ran.code == 0
    task = await town.task(json.loads(ran.out)["task_id"])
    assert (task["status"], task["planifiee_a"]) == ("pending", "2023-11-27T07:00:00.000Z")


async def test_the_same_idempotency_key_sends_once(town: Town, cli: Cli) -> None:
    email = town.service("email")

    for _ in range(2):
        assert (await cli(*SEND, *ANA, "--idempotency-key", "storm-1")).code == 0

    assert email.reached == ["u1"]


CSV = """\
id;nom;email;telephone;langue;canal_prefere;actif\r
u1;Ana Silva;ana@example.org;;en;;oui\r
\r
u2;"Dupont; Jean";;+33 6 39 98 00 01;;sms;\r
u3;Zoé;zoe@example.org;;;;non\r
"""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
async def test_recipients_come_from_a_spreadsheet(town: Town, cli: Cli, tmp_path: Path, encoding: str) -> None:
    (tmp_path / "annuaire.csv").write_bytes(CSV.encode(encoding))

    ran = await cli(*SEND, "--file", str(tmp_path / "annuaire.csv"), "--json")

    rows = {row["id"]: row for row in await town.deliveries(json.loads(ran.out)["id"])}
    assert {name: (row["nom"], row["channel"], row["status"]) for name, row in rows.items()} == {
        "u1": ("Ana Silva", "email", "sent"),
        "u2": ("Dupont; Jean", "sms", "sent"),
        "u3": ("Zoé", "email", "skipped"),
    }


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ("00 33 6.12.34.56.78", "+33612345678"),
        ("+33 (0)6 12 34 56 78", "+33612345678"),  # the 0 is for calls from within the country
        ("0041 ( 0 ) 44 668 18 00", "+41446681800"),
        ("+39 06 698 12345", "+390669812345"),  # here it is part of the number
    ],
)
def test_a_number_is_read_as_people_write_it(written: str, number: str) -> None:
    assert read_csv(f"nom;tel\nAna;{written}\n", "x")[0]["telephone"] == number


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,nom,couriel\nu1,Ana,a@b.org\n", "line 1: expected a header of id, nom, email"),
        ("nom,langue\nAna,fr\n", "line 1: expected a header"),
        ("id,mail,courriel\n1,a@b.org,a@b.org\n", "line 1: expected a header"),
        ("nom,email\nAna,\n", "line 2: id: "),
        ("id,nom,email\nu1,Ana,a@b.org\n\nu2,Jean\n", "line 4: expected 3 fields, got 2"),
        ("id,nom,email\nu1,Ana,ana at b.org\n", "line 2: email: "),
        ('id,nom,email\nu1,"Ana\nMaria",a@b.org\n', "line 2: nom: "),
        ("id,nom,actif\nu1,Ana,peut-être\n", "line 2: actif: expected oui or non"),
        ('id,nom\nu1,"Ana"x\n', "line 2: expected CSV"),
        ("id,nom,email\n", "expected a header line"),
        ("", "expected a header line"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str) -> None:
    file = tmp_path / "annuaire.csv"
    file.write_text(text, encoding="utf-8")

    assert main([*SEND, "--file", str(file), "--key", "k"]) == 2

    assert said in capsys.readouterr().err


def test_a_file_in_another_encoding_is_told_by_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.csv").write_bytes("id,nom\nu1,Ana\nu2,Zoé\n".encode("latin-1"))

    assert main([*SEND, "--file", str(tmp_path / "a.csv"), "--key", "k"]) == 2

    assert "line 3: expected UTF-8" in capsys.readouterr().err


async def test_a_whole_notification_comes_from_a_file(town: Town, cli: Cli, tmp_path: Path) -> None:
    whole = {
        "titre": "Crue",
        "message": "La Loue monte.",
        "priorite": "HAUTE",
        "utilisateurs": [{"id": "u1", "nom": "Ana", "email": "ana@example.org"}],
    }
    (tmp_path / "n.json").write_text(json.dumps(whole), encoding="utf-8")
    (tmp_path / "more.json").write_text(
        json.dumps([{"id": "u2", "nom": "Jean", "email": "j@example.org"}]), encoding="utf-8"
    )

    ran = await cli(
        "send", "--type", "infra", "--file", str(tmp_path / "n.json"), "--file", str(tmp_path / "more.json"),
        "--titre", "Crue de la Loue", "--json",
    )  # fmt: skip

    task = json.loads(ran.out)
    assert (task["titre"], task["message"], task["priority"], task["progress"]["sent"]) == (
        "Crue de la Loue", "La Loue monte.", "HAUTE", 2,
    )  # fmt: skip


async def test_the_message_comes_from_stdin(town: Town, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    email = town.service("email")
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("Fini.\nÀ demain.\n".encode())))

    ran = await cli("send", "--type", "infra", "--titre", "Travaux", *ANA)

    assert ran.code == 0
    assert email.calls[0].message == "Fini.\nÀ demain."


async def test_what_the_server_finds_wrong_is_said_in_one_line(town: Town, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "people.json").write_text('[{"id": "u1", "nom": "Ana", "mail": "a@b.org"}]', encoding="utf-8")

    ran = await cli(*SEND, "--file", str(tmp_path / "people.json"), "--priorite", "TRÈS")

    assert ran.code == 1
    assert "/utilisateurs/0/mail" in ran.err and "/priorite" in ran.err
    assert ran.err.startswith("tocsin: ") and ran.err.count("\n") == 1


async def test_a_key_that_is_unknown_or_may_not_is_told_what_to_do(town: Town, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "key").write_text((await town.key(Role.VIEWER))["X-API-Key"] + "\n", encoding="utf-8")

    unknown = await cli(*SEND, *ANA, "--key", "wrong")
    viewer = await cli(*SEND, *ANA, "--key", f"file:{tmp_path / 'key'}")

    assert unknown.code == viewer.code == 1
    assert "does not know this key; give another by --key or TOCSIN_KEY" in unknown.err
    assert "operator" in viewer.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((*SEND, *ANA, "--url", "ftp://x"), "--url: expected http"),
        ((*SEND, *ANA), "a key is needed"),
        (SEND, "recipients are needed"),
        (("send", "--type", "meteo", "--message", "x", *ANA), "a title is needed"),
        ((*SEND, "--file", "/nowhere.json"), "/nowhere.json: cannot be read"),
    ],
)
def test_wrong_usage_ends_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    monkeypatch.delenv("TOCSIN_KEY", raising=False)

    assert main(arguments) == 2

    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"titre": "t", "utilisateurs": null}', "utilisateurs: expected a list"),
        ('{"titre": "t", "utilisateurs": {"id": "u1"}}', "utilisateurs: expected a list"),
        ('{"titre": "t", "utilisateurs": "u1"}', "utilisateurs: expected a list"),
        ("[" * 200_000, "expected JSON"),
        ('[{"id": ' + "9" * 5_000 + "}]", "expected JSON"),
        ('[{"id": NaN}]', "expected JSON"),
        ('[{"id": "\\ud800", "nom": "Ana"}]', "expected JSON"),
    ],
)
def test_a_file_that_is_no_list_of_people_is_told_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    file = tmp_path / "people.json"
    file.write_text(text, encoding="utf-8")

    assert main([*SEND, "--file", str(file), "--key", "k"]) == 2

    err = capsys.readouterr().err
    assert err.startswith(f"tocsin: {file}") and said in err and err.count("\n") == 1


def test_a_flag_that_is_no_utf_8_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for flags in (("--titre", "Temp\udcea"), ("--message", "\udcff"), ("--idempotency-key", "\udcff")):
        assert main([*SEND, *flags, *ANA, "--key", "k", "--tries", "1"]) == 2
        assert "UTF-8" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["../../admin/api/queue/pause", "meteo/../../../admin/api/queue/pause?x", "..", "é/#"])
async def test_a_type_is_a_name_and_leads_nowhere_else(town: Town, cli: Cli, kind: str) -> None:
    ran = await cli("send", "--type", kind, "--titre", "t", "--message", "m", *ANA, "--no-wait")

    assert ran.code == 1 and ran.err.count("\n") == 1
    assert not (await town.json("/api/queue/stats"))["stats"]["paused"]


async def test_a_server_that_is_not_there_is_said_so(cli: Cli, unused_tcp_port: int) -> None:
    ran = await cli(*SEND, *ANA, "--url", f"http://127.0.0.1:{unused_tcp_port}", "--tries", "2")

    assert ran.code == 1
    assert "try 2 of 2" in ran.err
    assert "is out of reach" in ran.err


async def test_it_tries_again_with_the_same_key_until_it_is_accepted(cli: Cli) -> None:
    keys: Counter[str] = Counter()

    async def busy(request: web.Request) -> web.StreamResponse:
        keys[request.headers["Idempotency-Key"]] += 1
        match keys.total():
            case 1:
                return web.Response(status=503, headers={"Retry-After": "0"})
            case 2:
                assert request.transport
                request.transport.abort()
                raise asyncio.CancelledError
            case _:
                return web.json_response({"task_id": "t1", "status": "pending"}, status=202)

    app = web.Application()
    app.router.add_post("/api/notifications/meteo", busy)
    async with TestServer(app) as server:
        ran = await cli(*SEND, *ANA, "--no-wait", "--url", str(server.make_url("/")))

    assert (ran.code, ran.out) == (0, "t1 pending\n")
    assert list(keys.values()) == [3]


async def test_a_task_that_is_cancelled_while_it_is_followed_ends_the_command(town: Town, cli: Cli) -> None:
    email = town.service("email")
    email.hold()
    running: asyncio.Task[Any] = asyncio.create_task(cli(*SEND, *ANA))
    await email.arrived.wait()
    task_id = (await town.json("/api/queue/tasks"))["tasks"][0]["id"]

    await town.post(f"/api/queue/tasks/{task_id}/cancel")
    email.release()

    ran = await running
    assert ran.code == 3
    assert "cancelled" in ran.out
    assert ADMIN_KEY not in ran.out + ran.err
