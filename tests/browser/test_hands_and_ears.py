"""The queue for those who use the keyboard alone, who hear the page, and who go back and forth."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from playwright.async_api import expect

from tests.browser.kit import Eyes, Site
from tests.kit import jean

pytestmark = pytest.mark.asyncio(loop_scope="session")

Look = Callable[..., Awaitable[Eyes]]


async def test_a_menu_closes_behind_the_focus(eyes: Eyes) -> None:
    page = await eyes.sign_in()
    await page.focus(".pick summary")
    await page.keyboard.press("Enter")
    await expect(page.locator(".pick[open] .menu")).to_be_visible()

    for _ in range(6):  # five statuses, then the next menu's button
        await page.keyboard.press("Tab")

    await expect(page.locator(".pick[open]")).to_have_count(0)
    await expect(page.locator(".pick summary").nth(1)).to_be_focused()


async def test_each_box_says_which_task_it_picks(site: Site, eyes: Eyes) -> None:
    await site.send("Crue")
    await site.send("Gel")
    page = await eyes.sign_in()

    await page.get_by_role("checkbox", name="Sélectionner « Crue »").check()

    await expect(page.locator(".row.picked .titre")).to_have_text(["Crue"])


async def test_what_a_filter_has_found_is_read_out(site: Site, eyes: Eyes) -> None:
    await site.send("Crue")
    await site.send("Gel")
    page = await eyes.sign_in()
    await expect(page.locator(".row")).to_have_count(2)
    said = page.locator("#app > p[role=status]")

    await page.fill("#q", "crue")
    await expect(said).to_have_text("1 tâche affichée")
    await page.fill("#q", "sécheresse")
    await expect(said).to_have_text("Aucune tâche ne correspond")


async def test_one_search_is_one_step_back(site: Site, eyes: Eyes) -> None:
    await site.send("Crue")
    await site.send("Gel")
    page = await eyes.sign_in()
    for typed in ("c", "cr", "cru"):
        await page.fill("#q", typed)
        await page.wait_for_url(f"**/admin/queue?q={typed}")
    await expect(page.locator(".row .titre")).to_have_text(["Crue"])

    await page.go_back()

    await expect(page.locator(".row")).to_have_count(2)
    await expect(page.locator("#q")).to_have_value("")
    assert page.url.endswith("/admin/queue")


async def test_back_does_not_open_again_what_was_closed(site: Site, eyes: Eyes) -> None:
    await site.send("Crue")
    page = await eyes.sign_in()
    await page.click(".counter.completed")
    await page.click(".row .titre")
    await expect(page.locator(".drawer")).to_be_visible()
    await page.keyboard.press("Escape")
    await page.wait_for_url("**/admin/queue?status=completed")

    await page.go_back()

    await page.wait_for_url("**/admin/queue")
    await expect(page.locator(".drawer")).to_be_hidden()
    await page.click(".row .titre")
    await page.go_back()
    await expect(page.locator(".drawer")).to_be_hidden()


async def test_single_keys_can_be_switched_off(site: Site, eyes: Eyes) -> None:
    await site.send("Crue")
    page = await eyes.sign_in()
    await expect(page.locator(".row")).to_have_count(1)
    await page.keyboard.press("?")
    await page.get_by_label("Raccourcis d’une seule touche").uncheck()
    await page.keyboard.press("Escape")

    for key in "j/?":
        await page.keyboard.press(key)
    await expect(page.locator("dialog.ask")).to_have_count(0)
    await expect(page.locator(".row .titre, #q").locator(":focus")).to_have_count(0)
    await page.click(".filters .help")
    await page.get_by_label("Raccourcis d’une seule touche").check()
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await expect(page.locator(".row .titre")).to_be_focused()


async def test_what_is_chosen_shows_where_colours_are_the_readers_own(look: Look) -> None:
    eyes = await look(forced_colors="active")
    page = await eyes.sign_in(path="/admin/queue?status=failed")

    await expect(page.locator(".counter.failed")).to_have_css("outline-style", "solid")
    await expect(page.locator(".counter.pending")).to_have_css("outline-style", "none")


async def test_a_button_stays_under_the_finger_while_the_task_goes_on(site: Site, eyes: Eyes) -> None:
    email, sms = site.service("email"), site.service("sms")
    email.hold()
    sms.hold()
    task_id = await site.send("Crue", utilisateurs=[jean(0), jean(1), jean(2, canal="sms")])
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".task-head .status")).to_have_text("En traitement")
    await page.evaluate("window.button = document.querySelector('#cancel')")
    copy = page.get_by_role("button", name="Copier l’identifiant")
    await copy.focus()

    email.release()
    await expect(page.locator(".tally b").first).to_have_text("2")
    assert await page.evaluate("window.button.isConnected")
    await expect(copy).to_be_focused()
    sms.release()
    await expect(page.locator(".task-head .status")).to_have_text("Terminée")
    await expect(page.locator(".task-acts :focus")).to_have_count(1)


async def test_the_focus_stays_where_a_press_has_drawn_anew(site: Site, eyes: Eyes) -> None:
    task_id = await site.send("Crue", n=250)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page.locator(".task-head .status")).to_have_text("Terminée")
    await page.get_by_role("button", name="Afficher la suite").press("Enter")
    await expect(page.locator(".list tbody tr")).to_have_count(200)
    await expect(page.get_by_role("button", name="Afficher la suite")).to_be_focused()

    await page.goto(site.url + "/admin/send")
    await page.get_by_role("button", name="Anglais").press("Enter")
    await expect(page.get_by_role("button", name="Anglais", pressed=True)).to_be_focused()

    await page.goto(site.url + "/admin/queue")
    await page.check(".row .check")
    await page.get_by_role("button", name="Désélectionner").press("Enter")
    await expect(page.locator(".thead .check")).to_be_focused()


async def test_keys_lead_to_what_one_does_with_them(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/keys")

    await page.get_by_role("link", name="Documentation de l’API").click()

    await page.get_by_role("link", name="Pour commencer").click()
    await expect(page.get_by_role("heading", name="Pour commencer")).to_be_in_viewport()
