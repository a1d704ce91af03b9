"""The command line as a whole, and the commands that need no story of their own: check, demo, verify, worker, help."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import pytest

from server.cli import COMMANDS, main
from server.commands import demo
from server.store.desk import Run
from tests.cli.conftest import Cli
from tests.kit import ADMIN_KEY, Town
from tests.stores import store_url

ROOT = Path(__file__).resolve().parents[2]


def config(folder: Path, text: str = "") -> str:
    """A configuration file in `folder`."""
    (folder / "config.toml").write_text(text, encoding="utf-8")
    return str(folder / "config.toml")


# --- the whole -----------------------------------------------------------------------------------


KEYS = [("keys", action) for action in ("add", "list", "revoke")]


@pytest.mark.parametrize("command", [(), *((name,) for name in COMMANDS), *KEYS])
def test_every_command_has_help_with_an_example_and_the_exit_codes(
    command: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "exit codes:" in said
    if command:
        assert f"run.py {' '.join(command)}" in re.split("examples?:", said)[1]


def test_the_configuration_may_be_named_before_or_after_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config(tmp_path)

    assert main(["--config", file, "keys", "add", "one"]) == 0
    assert main(["keys", "add", "two", "--config", file]) == 0
    assert main([f"--config={file}", "keys", "list"]) == 0

    said = capsys.readouterr().out
    assert "one" in said and "two" in said
    assert (tmp_path / "data" / "tocsin.db").exists()


def test_an_unknown_command_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["sned"])

    assert ended.value.code == 2
    assert "sned" in capsys.readouterr().err


def test_bash_completes_commands_and_flags(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    ask = 'COMP_WORDS=(run.py "$@"); COMP_CWORD=$#; _tocsin; echo "${COMPREPLY[@]}"'

    def completed(*words: str) -> list[str]:
        ran = subprocess.run(
            ["/bin/bash", "-c", f"{script}\n{ask}", "bash", *words], capture_output=True, text=True, check=True
        )
        return ran.stdout.split()

    assert completed("se") == ["serve", "send"]
    assert completed("send", "--id") == ["--idempotency-key"]
    assert completed("keys", "re") == ["revoke"]


def test_a_client_does_not_load_the_server() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", "import sys; from server.cli import main; main(['tail', '--url', 'x', '--key', 'k']);"
         "print('server.app' in sys.modules, 'apprise' in sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip

    assert ran.stdout == "False False\n"


# --- check ---------------------------------------------------------------------------------------


def test_check_is_content_with_what_is_shipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--config", config(tmp_path)]) == 0

    said = capsys.readouterr().out
    for what in ("configuration", "store", "channel email", "channel sms", "channel app"):
        assert re.search(rf"^{what} +ok ", said, re.M)
    assert not (tmp_path / "data" / "tocsin.db").exists()


@pytest.mark.usefixtures("both_engines")
async def test_check_works_beside_a_running_server(
    town: Town, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_STORE__URL", await store_url(tmp_path))

    assert await asyncio.to_thread(main, ["check", "--config", str(tmp_path / "config.toml")]) == 0

    assert "can be read" in capsys.readouterr().out


def test_check_names_what_does_not_work_and_no_secret(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    file = config(
        tmp_path,
        f"""
        [channels.email]
        url = "smtp://me:hunter2hunter2@127.0.0.1:{unused_tcp_port}?from=a@example.org"
        [channels.sms]
        url = "outbox:out"
        """,
    )

    assert main(["check", "--config", file]) == 1

    said = capsys.readouterr().out
    assert re.search("^channel email +no ", said, re.M) and re.search("^channel sms +ok ", said, re.M)
    main(["check", "--config", file])
    assert "hunter2" not in "".join(capsys.readouterr())


def test_check_says_no_in_its_table_of_a_store_url_that_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unused_tcp_port: int
) -> None:
    file = config(tmp_path, f'[store]\nurl = "postgresql://me:hunter[2@127.0.0.1:{unused_tcp_port}/tocsin"\n')

    assert main(["check", "--config", file]) == 1

    said = "".join(capsys.readouterr())
    assert re.search("^store +no ", said, re.M) and "hunter" not in said


def test_check_names_a_foreign_database_and_a_file_that_is_no_certificate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tocsin.db").write_text("not a database at all, but long enough to be read as one" * 20)
    file = config(
        tmp_path, '[store]\nurl = "sqlite:tocsin.db"\n[server]\ntls_cert = "tocsin.db"\ntls_key = "tocsin.db"\n'
    )

    assert main(["check", "--config", file]) == 1

    said = capsys.readouterr().out
    assert re.search("^TLS +no ", said, re.M) and re.search("^store +no ", said, re.M)


def test_check_says_until_when_a_certificate_holds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, days in (("good", "30"), ("old", "-1")):
        made = subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj",
             "/CN=localhost", "-days", days, "-keyout", tmp_path / f"{name}.key", "-out", tmp_path / f"{name}.pem"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            assert days == "-1", made.stderr  # this openssl makes none that is old: the other half has to do
            continue
        file = config(tmp_path, f'[server]\ntls_cert = "{name}.pem"\ntls_key = "{name}.key"\n')
        assert main(["check", "--config", file]) == (1 if name == "old" else 0)
        said = " ".join(capsys.readouterr().out.split())
        assert ("expired" if name == "old" else "valid until") in said


# --- verify --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("both_engines")
async def test_verify_prints_a_table_and_ends_with_1_on_a_finding(
    town: Town, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOCSIN_STORE__URL", await store_url(tmp_path))
    task_id = await town.send()
    await town.until_idle()
    command = ("verify", "--config", str(tmp_path / "config.toml"))
    whole = await cli(*command)
    await town.store.apply(Run("UPDATE task SET sent = 0 WHERE id = $1", (task_id,)))

    found = await cli(*command)

    assert (whole.code, found.code) == (0, 1)
    assert "wrong" not in whole.out
    assert "wrong" in found.out and task_id in found.out


def test_verify_makes_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--config", config(tmp_path)]) == 1

    assert "there is no database" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


# --- demo ----------------------------------------------------------------------------------------


async def test_demo_sends_a_mix_of_everything(town: Town, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "_now", lambda: datetime.fromtimestamp(town.clock.now_ms() / 1000, UTC))
    ran = await cli("demo", "--count", "40", "--rate", "1000", "--seed", "7")

    await town.until_idle()
    tasks = (await town.json("/api/queue/tasks?limit=100"))["tasks"]
    assert ran.code == 0
    assert ran.out.startswith("40 notifications to ")
    assert len(tasks) == 40
    assert {task["type"] for task in tasks} == {"meteo", "securite", "sante", "infra"}
    assert {task["priority"] for task in tasks} == {"CRITIQUE", "HAUTE", "NORMALE"}
    assert Counter(task["status"] for task in tasks).keys() >= {"completed", "pending"}
    assert any(task["planifiee_a"] for task in tasks)
    assert any(task["progress"]["skipped"] for task in tasks)
    assert any(task["result"] and task["result"]["doublons"] for task in tasks)
    assert max(task["progress"]["total"] for task in tasks) >= 200


@pytest.mark.parametrize("flag", ["--rate", "--seconds"])
@pytest.mark.parametrize("value", ["inf", "nan", "-1", "0"])
def test_demo_takes_numbers_that_end(capsys: pytest.CaptureFixture[str], flag: str, value: str) -> None:
    assert main(["demo", flag, value, "--key", "k"]) == 2

    assert "--rate, --count, --seconds: expected more than 0" in capsys.readouterr().err


def test_demo_asks_before_it_alarms_another_machine(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--url", "https://tocsin.example.org", "--key", "k"]) == 2

    assert "--yes" in capsys.readouterr().err


# --- worker --------------------------------------------------------------------------------------


async def test_a_worker_delivers_and_answers_health_and_metrics_alone(tmp_path: Path) -> None:
    environ = os.environ | {"TOCSIN_AUTH__ADMIN_KEY": ADMIN_KEY}
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(ROOT / "run.py"), "worker", "--port", "0", "--config", config(tmp_path),
        env=environ, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout
    try:
        base = (await child.stdout.readline()).decode().split(" : ")[1].removesuffix("/api/health/ready\n")
        async with aiohttp.ClientSession(base, headers={"X-API-Key": ADMIN_KEY}) as session:
            statuses = {}
            for path in (
                "/api/health",
                "/api/health/ready",
                "/metrics",
                "/api/queue/stats",
                "/admin/queue",
                "/ws/events",
            ):
                async with session.get(path) as answer:
                    statuses[path] = answer.status
        assert statuses == {
            "/api/health": 200, "/api/health/ready": 200, "/metrics": 200,
            "/api/queue/stats": 404, "/admin/queue": 404, "/ws/events": 404,
        }  # fmt: skip
        child.send_signal(signal.SIGTERM)
        assert await child.wait() == 0
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()
