"""Composing goes wrong in many ways; none of them loses what one has written."""

from __future__ import annotations

import re

import pytest
from playwright.async_api import expect

from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def compose(eyes: Eyes, people: str = "jean@mairie.fr") -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "Exercice")
    await page.fill("#message", "Rien à faire.")
    await page.fill("#people", people)


async def test_a_draft_keeps_its_times(eyes: Eyes) -> None:
    await compose(eyes)
    page = eyes.page
    await page.fill("#planned", "2030-01-31T08:00")
    await page.fill("#expires", "2030-01-31T12:30")

    await page.reload()

    await expect(page.locator("#planned")).to_have_value("2030-01-31T08:00")
    await expect(page.locator("#expires")).to_have_value("2030-01-31T12:30")


async def test_the_last_question_says_when_in_words(eyes: Eyes) -> None:
    await compose(eyes)
    page = eyes.page
    await page.fill("#planned", "2030-01-31T08:00")
    await page.fill("#expires", "2030-01-31T12:30")

    await page.click("button[type=submit].big")

    asked = page.locator("dialog.ask")
    await expect(asked).to_contain_text("le 31 janv. 2030, 08:00:00")
    await expect(asked).to_contain_text("pas après le 31 janv. 2030, 12:30:00")


async def test_that_nobody_is_named_is_said_where_people_are_written(eyes: Eyes) -> None:
    await compose(eyes, people="")
    page = eyes.page

    await page.click("button[type=submit].big")

    people = page.locator("#people")
    await expect(people).to_be_focused()
    await expect(people).to_have_attribute("aria-invalid", "true")
    await expect(people).to_have_accessible_description(re.compile("Ajoutez au moins un destinataire"))
    await expect(page.get_by_role("alert").filter(has_text="Ajoutez au moins un destinataire.")).to_be_in_viewport()
    await page.keyboard.type("jean@mairie.fr")
    await expect(people).to_have_attribute("aria-invalid", "false")


async def test_a_server_out_of_reach_gets_the_same_notification_once(site: Site, eyes: Eyes) -> None:
    await compose(eyes)
    page = eyes.page
    await site.stop()
    await page.click("button[type=submit].big")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".banner.alert")).to_contain_text("elle ne partira pas deux fois")
    eyes.forget("ERR_CONNECTION_REFUSED")
    await site.start()
    await page.click("button[type=submit].big")
    await page.click("dialog.ask button.primary")
    await page.wait_for_url("**/admin/queue/*-*")
    assert (await site.stats())["total_enqueued"] == 1
