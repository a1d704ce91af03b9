"""Signing in, keys and the audit log."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from server.model import Role
from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_wrong_key_is_refused_in_words(site: Site, eyes: Eyes) -> None:
    page = eyes.page
    await page.goto(f"{site.url}/admin/queue")
    await page.wait_for_url("**/admin/login?next=/admin/queue")

    await page.fill("#key", "wrong")
    await page.click("button.primary")

    await expect(page.locator("[role=alert]")).to_be_visible()
    eyes.forget("401")


async def test_signing_in_leads_back_to_where_one_wanted_to_go(site: Site, eyes: Eyes) -> None:
    page = eyes.page
    await page.goto(f"{site.url}/admin/queue?status=failed")
    await page.fill("#key", await site.key(Role.VIEWER))
    await page.click("button.primary")

    await page.wait_for_url("**/admin/queue?status=failed")
    await page.click("form[action='/admin/logout'] button")
    await page.wait_for_url("**/admin/login")


async def test_a_key_is_made_shown_once_and_revoked(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/keys")
    await page.click("#new-key")
    await page.fill("#key-name", "Centrale météo")
    await page.select_option("#key-role", "operator")
    await page.click("dialog.ask button.primary")
    secret = page.locator(".secret code")
    await expect(secret).to_contain_text("tocsin_")
    await expect(page.locator(".secret button")).to_be_focused()  # one Enter too many must not lose the key
    await page.keyboard.press("Escape")
    await expect(secret).to_have_count(0)
    row = page.locator("tr", has_text="Centrale météo").first
    await expect(row).to_contain_text("Opérateur")

    await row.locator("button").click()
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".card").first.locator("tbody tr:not(#configured-key)")).to_have_count(0)
    await page.reload()
    audit = page.locator(".card").nth(1)
    await expect(audit).to_contain_text("a créé la clé")
    await expect(audit).to_contain_text("a révoqué la clé")


async def test_what_was_done_is_told_in_the_readers_language(site: Site, eyes: Eyes) -> None:
    await site.send(n=35)
    await site.call("POST", "/admin/api/queue/clear", {"hours": 1.5, "status": ["failed", "cancelled"]})
    await site.call("POST", "/admin/api/queue/retry", {"status": ["failed"], "q": "crue"})
    page = await eyes.sign_in(path="/admin/keys")
    said = page.locator(".card").nth(1).locator(".why")

    french = [
        "0 tâche visée · 0 faite · Échouée · recherche « crue »",
        "finies depuis plus de 1,5 h · Annulée, Échouée · 0 tâche supprimée",
        "Météo · 35 destinataires",
    ]
    await expect(said).to_have_text(french)
    await page.click("#lang")
    await expect(said.last).to_have_text("Weather · 35 recipients")


async def test_the_configured_key_is_listed_but_not_revoked_here(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/keys")

    row = page.locator("#configured-key")
    await expect(row).to_contain_text("auth.admin_key la vôtre")
    await expect(row).to_contain_text("elle ne se révoque que là")
    assert await row.locator("button").count() == 0


async def test_an_operator_may_not_see_the_keys(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(await site.key(Role.OPERATOR), path="/admin/keys")

    await expect(page.locator("h1")).to_be_visible()
    assert await page.locator("#new-key").count() == 0
    eyes.forget("403")
