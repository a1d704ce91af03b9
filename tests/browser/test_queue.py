"""The live queue, as an operator sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import WebSocket, expect

from notifiers import Refused, RetryLater, Sent
from server.model import Role
from tests.browser.kit import Eyes, Site
from tests.kit import jean

pytestmark = pytest.mark.asyncio(loop_scope="session")

Look = Callable[..., Awaitable[Eyes]]
STILL = """async () => {
  const frame = () => new Promise(requestAnimationFrame);
  const row = (titre) => `${titre.textContent} ${titre.getBoundingClientRect().top}`;
  const places = () => [...document.querySelectorAll(".row .titre")].map(row).join();
  for (let same = 0, before = ""; same < 10; ) {
    await frame();
    same = places() === before ? same + 1 : 0;
    before = places();
  }
}"""
"""Comes back once nothing has moved for some frames: scrolling goes on for a while."""


async def test_a_posted_notification_appears_and_completes_without_a_reload(site: Site, eyes: Eyes) -> None:
    service = site.service()
    service.hold()
    page = await eyes.sign_in()
    await eyes.live()
    await page.evaluate("window.same = true")
    await expect(page.locator(".blank h2")).to_have_text("Aucune tâche")

    await site.send("alerte_meteo", n=2)

    row = page.locator(".row").first
    await expect(row.locator(".titre")).to_have_text("alerte_meteo")
    await expect(row.locator(".status")).to_have_text("En traitement")
    await eyes.count("processing", 1)
    service.release()
    await expect(row.locator(".status")).to_have_text("Terminée")
    await expect(row.locator(".nums")).to_contain_text("2 / 2")
    await eyes.count("completed", 1)
    await eyes.count("processing", 0)
    assert await page.evaluate("window.same") is True
    await eyes.shot("journey")


async def test_after_a_restart_the_page_is_right_again_without_a_reload(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in()
    await site.send("before")
    await eyes.count("completed", 1)
    await page.evaluate("window.same = true")

    await site.stop()
    await expect(page.locator("#link .waiting")).to_contain_text("Reconnexion")
    await site.start()
    await site.send("meanwhile")
    await eyes.live()
    await site.send("after")

    await expect(page.locator(".row .titre")).to_have_text(["after", "meanwhile", "before"])
    await eyes.count("completed", 3)
    assert await page.evaluate("window.same") is True
    eyes.forget("WebSocket", "ERR_CONNECTION_REFUSED")


async def test_a_viewer_sees_no_action(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    await site.send("échec")
    page = await eyes.sign_in(await site.key(Role.VIEWER))
    await eyes.count("failed", 1)

    for action in ("#pause", "#clear", ".row .check", 'a[href="/admin/send"]', 'a[href="/admin/keys"]'):
        await expect(page.locator(action)).to_have_count(0)
    await page.click(".row .titre")
    await expect(page.locator(".drawer h2").first).to_have_text("échec")
    await expect(page.locator("#retry")).to_have_count(0)
    await expect(page.locator(".drawer .list")).to_contain_text("j…0@example.org")


async def test_html_in_a_title_is_text(site: Site, eyes: Eyes) -> None:
    nasty = "<img src=x onerror=alert(1)>{{7*7}}"
    page = await eyes.sign_in()
    await site.send(nasty, utilisateurs=[jean(0, nom=nasty)], message=nasty)

    await expect(page.locator(".row .titre")).to_have_text(nasty)
    await page.click(".row .titre")
    await expect(page.locator(".drawer .message")).to_have_text(nasty)
    await expect(page.locator(".drawer .list td").first).to_contain_text(nasty)
    assert await page.locator("img").count() == 0


async def test_the_page_speaks_french_and_english(eyes: Eyes) -> None:
    page = await eyes.sign_in()
    await expect(page.locator(".counter.pending .name")).to_have_text("En attente")

    await page.click("#lang")

    await expect(page.locator(".counter.pending .name")).to_have_text("Waiting")
    assert await page.get_attribute("html", "lang") == "en"
    await page.reload()
    await expect(page.locator(".counter.failed .name")).to_have_text("Failed")


async def test_an_idle_page_asks_for_nothing(site: Site, eyes: Eyes) -> None:
    answered = asyncio.Event()
    asked: list[str | bytes] = []

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", lambda frame: asked.append(frame))
        socket.on("framereceived", lambda frame: answered.set())

    eyes.page.on("websocket", listen)
    await eyes.page.clock.install()
    page = await eyes.sign_in()
    await site.send("one")
    await eyes.count("completed", 1)
    await expect(page.locator(".row")).to_have_count(1)
    await page.wait_for_load_state("networkidle")
    eyes.requests.clear()

    for _ in range(30):  # a minute, and every timer it sets off; only the network keeps real time
        answered.clear()
        before = len(asked)
        await page.clock.run_for(2_000)
        if len(asked) > before:
            await answered.wait()

    assert eyes.requests == []


async def test_new_tasks_do_not_move_what_one_reads(site: Site, eyes: Eyes) -> None:
    await site.call("POST", "/admin/api/queue/pause")
    for number in range(150):
        await site.send(f"n° {number}")
    page = await eyes.sign_in()
    await expect(page.locator(".row").first).to_be_visible()
    await page.mouse.move(500, 500)
    await page.mouse.wheel(0, 4000)
    anchor = page.locator(".row .titre", has_text="n° 85").first
    await expect(anchor).to_be_visible()
    await page.evaluate(STILL)
    before = await anchor.bounding_box()

    for number in range(3):
        await site.send(f"nouvelle {number}")

    await expect(page.locator(".pill button")).to_have_text("3 nouvelles")
    assert await anchor.bounding_box() == before
    assert await page.locator(".row").count() <= 200
    await page.click(".pill button")
    await expect(page.locator(".row .titre").first).to_have_text("nouvelle 2")


async def test_the_filter_stands_in_the_address_and_is_live(site: Site, eyes: Eyes) -> None:
    service = site.service()
    service.always(lambda message: Refused("address_refused", "550") if "raté" in message.titre else Sent())
    await site.send("réussi")
    await site.send("raté 1")
    page = await eyes.sign_in()
    await eyes.count("failed", 1)

    await expect(page.locator(".counter.failed")).to_have_attribute("aria-pressed", "false")
    await page.click(".counter.failed")
    await expect(page.locator(".counter.failed")).to_have_attribute("aria-pressed", "true")

    await expect(page.locator(".row .titre")).to_have_text(["raté 1"])
    assert page.url.endswith("?status=failed")
    await site.send("raté 2")
    await expect(page.locator(".row .titre")).to_have_text(["raté 2", "raté 1"])
    await page.reload()
    await expect(page.locator(".row .titre")).to_have_text(["raté 2", "raté 1"])
    await page.go_back()
    await expect(page.locator(".row")).to_have_count(3)


async def test_an_expired_task_is_called_so_in_both_languages(site: Site, eyes: Eyes) -> None:
    site.service("sms").always(lambda _: RetryLater("busy", after_s=3600))
    page = await eyes.sign_in()
    soon = (datetime.now(UTC) + timedelta(seconds=6)).isoformat()
    await site.send("trop tard", utilisateurs=[jean(canal="sms"), jean(1)], expire_a=soon)

    await expect(page.locator(".row .why")).to_have_text("expirée · 1 sur 2 non joint")
    await page.click("#lang")
    await expect(page.locator(".row .why")).to_have_text("expired · 1 of 2 not reached")


async def test_many_are_retried_after_a_count_and_a_yes(site: Site, eyes: Eyes) -> None:
    service = site.service()
    service.always(lambda _: Refused("address_refused", "550"))
    for number in range(3):
        await site.send(f"raté {number}")
    page = await eyes.sign_in(path="/admin/queue?status=failed")
    await expect(page.locator(".row")).to_have_count(3)
    service.always(lambda _: Sent())

    await page.check(".thead .check")
    await expect(page.locator(".bulkbar")).to_contain_text("3 sélectionnées")
    await page.click(".bulkbar button:has-text('Relancer')")
    await expect(page.locator("dialog.ask h2")).to_have_text("Relancer 3 tâches ?")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".toast")).to_contain_text("3 tâches relancées.")
    await eyes.count("completed", 3)
    await expect(page.locator(".row")).to_have_count(0)


async def test_clean_up_asks_first(site: Site, eyes: Eyes) -> None:
    await site.send("ancienne")
    page = await eyes.sign_in()
    await eyes.count("completed", 1)

    await page.click("#clear")
    await page.fill("#clear-hours", "0")
    await eyes.shot("clean-up")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".toast")).to_contain_text("1 tâche supprimée")
    await expect(page.locator(".row")).to_have_count(0)
    await eyes.count("completed", 0)


async def test_pause_is_shown_and_taken_back(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in()
    await page.click("#pause")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".banner")).to_contain_text("La file est en pause")
    await site.send("attend")
    await eyes.count("pending", 1)
    await page.click("#pause")
    await eyes.count("completed", 1)
    await expect(page.locator(".banner")).to_have_count(0)


async def test_failures_show_in_title_and_favicon(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in()
    await eyes.live()
    icon = page.locator("link[rel=icon]")
    calm = await icon.get_attribute("href")
    site.service().always(lambda _: Refused("address_refused", "550"))
    await site.send("raté")

    await expect(page).to_have_title("(1) File d’attente · Tocsin")
    assert await icon.get_attribute("href") != calm


async def test_the_keyboard_walks_picks_opens_and_searches(site: Site, eyes: Eyes) -> None:
    for number in range(3):
        await site.send(f"n° {number}")
    page = await eyes.sign_in()
    await expect(page.locator(".row")).to_have_count(3)

    for key in "jjx":
        await page.keyboard.press(key)
    await expect(page.locator(".row.picked .titre")).to_have_text("n° 1")
    await page.keyboard.press("k")
    await page.keyboard.press("Enter")
    await expect(page.locator(".drawer h2").first).to_have_text("n° 2")
    await page.keyboard.press("Escape")
    await expect(page.locator(".drawer")).to_be_hidden()
    await page.keyboard.press("?")
    await expect(page.locator("dialog.ask")).to_contain_text("Raccourcis clavier")
    await page.keyboard.press("Escape")
    await page.keyboard.press("/")
    await page.keyboard.type("n° 0")
    await expect(page.locator(".row .titre")).to_have_text(["n° 0"])


async def test_two_tabs_share_nothing_and_both_are_live(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in()
    other = await eyes.context.new_page()
    await other.goto(site.url + "/admin/queue?status=pending")
    await expect(other.locator("#link .live")).to_be_visible()
    await eyes.live()

    await site.send("pour deux")

    await expect(page.locator(".row .titre")).to_have_text(["pour deux"])
    await expect(other.locator(".counter.completed .count")).to_have_text("1")
    await expect(other.locator(".row")).to_have_count(0)


async def test_a_revoked_key_leads_to_the_sign_in_page(site: Site, eyes: Eyes) -> None:
    key = await site.key(Role.VIEWER)
    page = await eyes.sign_in(key)
    await eyes.live()
    keys = (await site.call("GET", "/admin/api/keys"))["keys"]

    await site.call("DELETE", f"/admin/api/keys/{next(one['id'] for one in keys if one['name'] == 'viewer')}")

    await page.wait_for_url("**/admin/login?next=*")
    eyes.forget("401", "WebSocket")
