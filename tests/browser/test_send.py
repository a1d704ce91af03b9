"""Composing and sending, and what is wrong in which line."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_notification_is_composed_confirmed_and_watched(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.select_option("#type", "securite")
    await page.fill("#titre", "Exercice d'évacuation")
    await page.fill("#message", "Rejoignez le point de rassemblement.")
    await page.fill("#people", "id;nom;email;telephone\n1;Jean;jean@mairie.fr;\n2;Awa;awa@mairie.fr;+33612345678\n")
    await expect(page.locator("main")).to_contain_text("2 personnes · 1 sans téléphone")
    await eyes.shot("send")

    await page.click("button[type=submit].big")
    await expect(page.locator("dialog.ask h2")).to_have_text("Envoyer à 2 personnes ?")
    await expect(page.locator("dialog.ask")).to_contain_text("2 personnes, dont 1 sans téléphone")
    await page.click("dialog.ask button.primary")

    await page.wait_for_url("**/admin/queue/*-*")
    await expect(page.locator("h1")).to_have_text("Exercice d'évacuation")
    await expect(page.locator(".task-head .status")).to_have_text("Terminée")
    assert (await site.stats())["tasks_by_priority"]["CRITIQUE"]["completed"] == 1


async def test_what_is_wrong_is_said_line_by_line(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "t")
    await page.fill("#message", "m")
    lines = ["id,nom,email,telephone,canal", "1,Jean,jean(at)mairie,,", "2,Awa,,0612345678,sms", "3,Max,m@x.fr,,pigeon"]
    await page.fill("#people", "\n".join(lines))

    wrong = page.locator(".list tbody tr")
    await expect(wrong).to_have_count(3)
    await expect(wrong.nth(0)).to_contain_text("2« jean(at)mairie » n’est pas une adresse e-mail.")
    await expect(wrong.nth(1)).to_contain_text("3« 0612345678 » : écrivez-le avec l’indicatif du pays")
    await expect(wrong.nth(2)).to_contain_text("4Canal « pigeon » inconnu.")
    await page.click("button[type=submit].big")
    await expect(page.locator("dialog.ask")).to_have_count(0)
    assert (await site.stats())["total_enqueued"] == 0


async def test_what_the_server_refuses_is_shown_where_it_is(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "trop tard")
    await page.fill("#message", "m")
    await page.fill("#people", "jean@mairie.fr")
    await page.fill("#expires", "2020-01-01T00:00")
    await page.click("button[type=submit].big")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".banner.alert")).to_contain_text("Ne plus envoyer après")
    assert await page.input_value("#titre") == "trop tard"
    eyes.forget("422")


async def test_a_draft_survives_a_reload(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "brouillon")
    await page.fill("#people", "jean@mairie.fr")
    await expect(page.locator("main")).to_contain_text("1 personne")

    await page.reload()

    await expect(page.locator("#titre")).to_have_value("brouillon")
    await expect(page.locator("#people")).to_have_value("jean@mairie.fr")
