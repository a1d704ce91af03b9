"""One task: who was not reached, and why; and what may be done about it."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from notifiers import Message, Outcome, Refused, Sent
from tests.browser.kit import Eyes, Site
from tests.kit import jean

pytestmark = pytest.mark.asyncio(loop_scope="session")


def refuse_some(message: Message) -> Outcome:
    return Refused("address_refused", "550", "no such user") if message.recipient in ("u1", "u3") else Sent()


async def test_who_was_not_reached_is_two_clicks_away(site: Site, eyes: Eyes) -> None:
    site.service().always(refuse_some)
    await site.send("évacuation", "securite", n=5)
    page = await eyes.sign_in()
    await eyes.count("failed", 1)

    await page.click(".row .titre")
    await page.click(".drawer .banner button")

    people = page.locator(".drawer .list tbody tr")
    await expect(people).to_have_count(2)
    await expect(people.first).to_contain_text("Jean Dupont 1")
    await expect(people.first).to_contain_text("550")
    await expect(page.locator(".drawer .banner")).to_contain_text("2 destinataires sur 5 non joints")
    await eyes.shot("task-failed")


async def test_the_unreached_are_retried_from_the_page(site: Site, eyes: Eyes) -> None:
    service = site.service()
    service.always(refuse_some)
    task_id = await site.send("évacuation", n=5)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".task-head .status")).to_have_text("Échouée")
    service.always(lambda _: Sent())
    service.calls.clear()

    await page.click("#retry")
    await expect(page.locator("dialog.ask")).to_contain_text("2 destinataires non joints seront essayés à nouveau")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".task-head .status")).to_have_text("Terminée")
    await expect(page.locator(".tally b").first).to_have_text("5")
    await expect(page.locator(".timeline")).to_contain_text("Relancée par un opérateur")
    assert sorted(service.reached) == ["u1", "u3"]


async def test_cancel_says_how_many_were_already_reached(site: Site, eyes: Eyes) -> None:
    email, sms = site.service("email"), site.service("sms")
    sms.hold()
    task_id = await site.send("exercice", utilisateurs=[jean(0), jean(1), jean(2, canal="sms")])
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".tally b").first).to_have_text("2")
    assert len(email.calls) == 2

    await page.click("#cancel")

    await expect(page.locator("dialog.ask")).to_contain_text("2 destinataires sur 3 ont déjà été joints")
    await page.click("dialog.ask button.primary")
    await expect(page.locator(".task-head .status")).to_have_text("Annulée")
    sms.release()


async def test_the_csv_holds_no_formula(site: Site, eyes: Eyes) -> None:
    evil = '=HYPERLINK("http://evil.example";"x")'
    task_id = await site.send("export", utilisateurs=[jean(0, nom=evil), jean(1, id="@SUM(A1)")])
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".list tbody tr")).to_have_count(2)

    async with page.expect_download() as download:
        await page.click("button:has-text('CSV')")
    text = (await (await download.value).path()).read_text(encoding="utf-8-sig")

    lines = text.strip().splitlines()
    assert len(lines) == 3
    assert '"\'=HYPERLINK(""http' in lines[1]
    assert lines[2].startswith('"\'@SUM(A1)"')


async def test_recipients_are_searched_at_the_server(site: Site, eyes: Eyes) -> None:
    task_id = await site.send("beaucoup", n=250)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".list tbody tr")).to_have_count(100)

    await page.fill(".people-tools input", "Jean Dupont 243")

    await expect(page.locator(".list tbody tr")).to_have_count(1)
    await expect(page.locator(".list tbody tr")).to_contain_text("u243")


async def test_an_unknown_task_is_explained(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/queue/00000000-0000-7000-8000-000000000000")

    await expect(page.locator(".blank h2")).to_have_text("Tâche inconnue")
    eyes.forget("404")
