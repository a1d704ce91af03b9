"""What would make somebody stop for a second who sees the pages for the first time."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from playwright.async_api import expect

from notifiers import Refused, RetryLater
from server.app import CHANNELS
from server.clock import SystemClock
from server.gate import Breaker
from server.model import Role
from tests.browser.kit import Eyes, Site
from tests.kit import jean

pytestmark = pytest.mark.asyncio(loop_scope="session")


def ahead(**more: float) -> str:
    return (datetime.now(UTC) + timedelta(**more)).isoformat()


async def test_a_notice_is_seen_while_a_task_is_open_beside_the_table(site: Site, eyes: Eyes) -> None:
    await site.send("exercice")
    await eyes.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=site.url)
    await eyes.page.add_init_script(  # it stays, however long it takes to look at it
        "const wait = setTimeout; window.setTimeout = (then, ms, ...more) => ms === 6000 || wait(then, ms, ...more);"
    )
    page = await eyes.sign_in()
    await page.click(".row .titre")
    await page.click(".drawer button:has-text('Copier')")

    await expect(page.locator(".drawer .toast")).to_contain_text("Identifiant copié.")
    on_top = "([x, y]) => document.elementFromPoint(x, y).closest('.toast') !== null"
    box = await page.locator(".toast p").bounding_box()
    assert box and await page.evaluate(on_top, [box["x"] + 5, box["y"] + 5])
    await page.keyboard.press("Escape")
    await expect(page.locator(".drawer")).to_be_hidden()
    await expect(page.locator("body > .toasts .toast")).to_be_visible()


async def test_no_dialog_offers_to_cancel_beside_to_cancel(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: RetryLater("busy", after_s=3600))
    await site.send("attend", n=2)
    page = await eyes.sign_in()
    await page.check(".row .check")
    await page.click(".bulkbar .danger")

    await expect(page.locator("dialog.ask .ends button")).to_have_text(["Laisser partir", "Annuler 1 tâche"])
    await page.keyboard.press("Escape")
    await page.click(".row .titre")
    await page.click("#cancel")
    await expect(page.locator("dialog.ask p").first).to_have_text("Personne n’a encore été joint.")


async def test_a_retry_speaks_of_those_reached_only_where_there_are_any(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    task_id = await site.send("raté", n=2)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")

    await page.click("#retry")

    said = page.locator("dialog.ask p:visible")
    await expect(said).to_have_text(["2 destinataires non joints seront essayés à nouveau."])


async def test_revoking_ones_own_key_says_that_the_session_ends(site: Site, eyes: Eyes) -> None:
    admin = (await site.call("POST", "/admin/api/keys", {"name": "Astreinte", "role": "admin"}))["key"]
    page = await eyes.sign_in(admin, path="/admin/keys")

    await page.get_by_role("button", name="Révoquer « Astreinte »").click()

    await expect(page.locator("dialog.ask")).to_contain_text("cette session se terminera aussi")


async def test_what_a_viewer_may_not_see_names_the_role_in_the_readers_language(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(await site.key(Role.VIEWER), path="/admin/send")

    await expect(page.locator("main")).to_contain_text("il faut le rôle opérateur")
    eyes.forget("403")


async def test_the_sign_in_page_says_that_the_session_has_ended(site: Site, eyes: Eyes) -> None:
    key = await site.key(Role.VIEWER)
    page = await eyes.sign_in(key, "/admin/queue?status=failed")
    await eyes.live()
    key_id = next(one["id"] for one in (await site.call("GET", "/admin/api/keys"))["keys"])
    await site.call("DELETE", f"/admin/api/keys/{key_id}")

    await expect(page.locator(".gate [role=status]")).to_contain_text("Votre session est terminée")
    eyes.forget("401", "WebSocket")
    await page.click("a[lang=en]")
    await expect(page.locator("html")).to_have_attribute("lang", "en")
    await page.fill("#key", await site.key(Role.OPERATOR))
    await page.click("button.primary")
    await page.wait_for_url("**/admin/queue?status=failed")  # the language was changed, the way was kept


async def test_a_cancelled_task_has_nobody_left_to_reach(site: Site, eyes: Eyes) -> None:
    task_id = await site.send("Crue de la Loue", planifiee_a=ahead(days=1), n=3)
    page = await eyes.sign_in(path=f"/admin/queue/{task_id}")
    await expect(page).to_have_title("Crue de la Loue · Tocsin")
    await expect(page.locator(".tally")).to_contain_text("3à joindre")

    await site.call("POST", f"/api/queue/tasks/{task_id}/cancel")

    await expect(page.locator(".tally")).to_contain_text("3annulés")
    await expect(page.locator(".tally")).not_to_contain_text("à joindre")


async def test_a_planned_task_says_when_and_makes_nobody_wait(site: Site, eyes: Eyes) -> None:
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=12)  # the same day wherever the browser is
    await site.send("demain", planifiee_a=tomorrow.isoformat())
    page = await eyes.sign_in()

    await expect(page.locator(".row .next")).to_contain_text(f"planifiée pour {tomorrow.day} ")
    await expect(page.locator("[data-fact=oldest]")).to_contain_text("toutes pour plus tard")


async def test_a_title_from_right_to_left_is_cut_at_its_end(site: Site, eyes: Eyes) -> None:
    arabic = "تحذير من فيضان في المدينة القديمة " * 5
    await site.send(arabic.strip(), utilisateurs=[jean(0, nom="محمد")])
    page = await eyes.sign_in()
    title = page.locator(".row .titre")

    await expect(title).to_have_css("direction", "rtl")
    await expect(title).to_have_css("text-align", "left")


async def test_a_task_open_beside_the_table_is_what_goes_on_paper(site: Site, eyes: Eyes) -> None:
    await site.send("à imprimer", n=60)
    page = await eyes.sign_in()
    await page.click(".row .titre")
    await expect(page.locator(".drawer .list tbody tr")).to_have_count(60)

    await page.emulate_media(media="print")

    await expect(page.locator("main")).to_be_hidden()
    box = await page.locator(".drawer").bounding_box()
    assert box and box["height"] > 2_000  # all of it, not what fits the screen
    assert (await page.pdf()).count(b"/Type /Page\n") > 2


async def test_on_a_phone_the_row_has_room_for_when_it_is_tried_again(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: RetryLater("busy", after_s=3600))
    await site.send("attend", "infra", n=3)
    page = await eyes.sign_in()
    await page.set_viewport_size({"width": 375, "height": 720})

    note = page.locator(".row .next")
    await expect(note).to_contain_text("prochain essai")
    assert await note.evaluate("note => note.scrollWidth <= note.clientWidth")


async def test_what_many_would_become_is_counted_before_it_is_asked(site: Site, eyes: Eyes) -> None:
    site.service().always(lambda _: Refused("address_refused", "550"))
    for number in range(3):
        await site.send(f"raté {number}")
    page = await eyes.sign_in()
    await eyes.count("failed", 3)
    await site.send("plus tard", planifiee_a=ahead(hours=1))
    await expect(page.locator(".row")).to_have_count(4)

    await page.check(".thead .check")
    await page.click(".bulkbar button:has-text('Annuler')")

    asked = page.locator("dialog.ask")
    await expect(asked.locator("h2")).to_have_text("Annuler 1 tâche ?")
    await expect(asked).to_contain_text("3 tâches laissées telles quelles")
    await page.keyboard.press("Escape")
    await page.goto(f"{site.url}/admin/queue?status=failed")
    await page.check(".thead .check")
    await page.click(".bulkbar button:has-text('Annuler')")
    await expect(asked).to_contain_text("Aucune de ces tâches ne peut être annulée : elles sont finies.")


async def test_what_waits_for_a_channel_is_not_called_planned(site: Site, eyes: Eyes) -> None:
    channel = site.app[CHANNELS]["email"]
    channel.breaker = Breaker(SystemClock(), after=1, first_s=3600, most_s=3600)
    channel.breaker.told(False)
    task_id = await site.send("le service est en panne")
    page = await eyes.sign_in()

    await expect(page.locator(".row .next")).to_contain_text("prochain essai")
    await page.goto(f"{site.url}/admin/queue/{task_id}")
    await expect(page.locator(".big-progress")).to_contain_text("Nouvel essai dans")


async def test_what_the_server_refuses_is_said_without_the_words_of_the_api(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "trop tard")
    await page.fill("#message", "m")
    await page.fill("#people", "jean@mairie.fr")
    await page.fill("#expires", "2020-01-01T00:00")
    await page.click("button[type=submit].big")
    await page.click("dialog.ask button.primary")

    await expect(page.locator(".banner.alert")).to_contain_text("doit être dans le futur")
    await expect(page.locator(".banner.alert")).not_to_contain_text("errors")
    eyes.forget("422")


async def test_a_moment_that_is_past_is_not_promised(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "Exercice")
    await page.fill("#message", "m")
    await page.fill("#people", "jean@mairie.fr")
    await page.fill("#planned", "2020-01-01T00:00")
    await page.click("button[type=submit].big")

    await expect(page.locator("dialog.ask")).to_contain_text("tout de suite : l’heure choisie est passée")
    await expect(page.locator("dialog.ask")).not_to_contain_text("2020")


async def test_a_file_that_is_not_utf8_is_refused_and_says_how_to_save_it(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#people", "jean@mairie.fr")
    latin = {"name": "annuaire.csv", "mimeType": "text/csv", "buffer": "nom;email\nZoé;z@x.fr\n".encode("latin-1")}
    await page.set_input_files("#file", latin)

    said = page.get_by_role("alert").filter(has_text="« annuaire.csv » n’est pas en UTF-8")
    await expect(said).to_contain_text("CSV UTF-8")
    await expect(page.locator("#people")).to_have_value("jean@mairie.fr")


async def test_faults_of_a_list_come_in_the_order_of_its_lines(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#people", "id;nom;email\n1;Ana;ana(at)x\n2;Zoé")

    await expect(page.locator(".list tbody td.line")).to_have_text(["2", "3"])


async def test_a_broken_connection_leaves_every_button_on_the_screen(site: Site, eyes: Eyes) -> None:
    await eyes.page.clock.install()
    page = await eyes.sign_in()
    await eyes.live()
    await site.stop()
    await expect(page.locator("#link .waiting")).to_be_visible()
    await page.clock.fast_forward(60_000)
    await expect(page.locator("#link .stale")).to_contain_text("Figé depuis")

    for width in (320, 390, 900):
        await page.set_viewport_size({"width": width, "height": 800})
        wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, width
    eyes.forget("WebSocket", "ERR_CONNECTION_REFUSED")


async def test_a_long_notice_stands_beside_its_sign(eyes: Eyes) -> None:
    page = await eyes.sign_in(path="/admin/send")
    await page.fill("#titre", "Exercice")
    await page.fill("#message", "m")
    await page.fill("#people", "jean@mairie.fr")
    problem = {"title": "Stockage indisponible", "status": 503, "detail": "Rien n’a été conservé. " * 12, "errors": []}
    await page.route("**/api/notifications/*", lambda route: route.fulfill(status=503, json=problem))
    await page.click("button[type=submit].big")
    await page.click("dialog.ask button.primary")

    sign = await page.locator(".banner.alert .icon").bounding_box()
    said = await page.locator(".banner.alert > div").bounding_box()
    assert sign and said and said["x"] >= sign["x"] + sign["width"]
    eyes.forget("503")
