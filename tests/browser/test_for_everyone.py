"""Accessibility, small screens, weight, and what the scripts work out by themselves."""

from __future__ import annotations

import gzip
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from playwright.async_api import Page, Request, expect

from notifiers import Refused
from server import spreadsheet
from server.commands.common import Stop
from server.commands.recipients import read_csv
from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")

Look = Callable[..., Awaitable[Eyes]]
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
COLOURS = ["color-contrast", "link-in-text-block"]
BUDGET = 60 * 1024
RULES_OF_SPREADSHEETS = {
    "columns": spreadsheet.COLUMNS,
    "separators": spreadsheet.SEPARATORS,
    "yes": spreadsheet.YES,
    "no": spreadsheet.NO,
    "shipped": spreadsheet.SHIPPED_CHANNELS,
    "channels": ["email", "sms", "app", "Sirene-Nord"],
}


async def violations(page: Page, *, colours: bool = False) -> list[str]:
    """What axe finds wrong with the page as it is, or with its `colours` alone."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE)
    only = {"type": "rule", "values": COLOURS} if colours else {"type": "tag", "values": RULES}
    run = "only => axe.run(document, {runOnly: only, resultTypes: ['violations']})"
    found: dict[str, Any] = await page.evaluate(run, only)
    return [f"{v['id']}: {node['html'][:160]} {node['any'][:1]}" for v in found["violations"] for node in v["nodes"]]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_nothing_wrong(scheme: str, site: Site, look: Look) -> None:
    dark = scheme == "dark"  # nothing but colours differs
    eyes = await look(color_scheme=scheme, reduced_motion="reduce")
    page = eyes.page
    await page.goto(f"{site.url}/admin/login")
    assert await violations(page, colours=dark) == []
    site.service().always(lambda message: Refused("address_refused", "550"))
    task_id = await site.send("raté", "securite", n=3)
    await eyes.sign_in()
    await eyes.count("failed", 1)
    await expect(page.locator(".row")).to_have_count(1)
    await eyes.shot(f"queue-{scheme}")
    assert await violations(page, colours=dark) == []
    await page.check(".row .check")
    await page.click(".pick summary")
    assert await violations(page, colours=dark) == []
    await page.keyboard.press("Escape")
    await page.click(".row .titre")
    await expect(page.locator(".drawer .list tbody tr")).to_have_count(3)
    assert await violations(page, colours=dark) == []
    for path in (f"/admin/queue/{task_id}", "/admin/send", "/admin/keys", "/admin/queue?q=rien-de-tel"):
        await page.goto(site.url + path)
        await expect(page.locator("main h1, main h2").first).to_be_attached()
        if "queue" in path:
            await eyes.live()
        await expect(page.locator(".spin, .bones")).to_have_count(0)
        assert await violations(page, colours=dark) == []


async def test_no_page_is_wider_than_the_screen(site: Site, eyes: Eyes) -> None:
    task_id = await site.send("Un titre assez long pour ne pas tenir sur un téléphone, sans le moindre doute", n=3)
    page = await eyes.sign_in()
    for path in ("/admin/queue", f"/admin/queue/{task_id}", "/admin/send", "/admin/keys", "/admin/login?lang=fr"):
        await page.goto(site.url + path)
        await expect(page.locator("main h1, main h2").first).to_be_attached()
        await expect(page.locator(".spin, .bones")).to_have_count(0)
        for width in (360, 768, 3840):
            await page.set_viewport_size({"width": width, "height": 800})
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} at {width}"
            await eyes.shot(f"{path.strip('/').split('?')[0].replace('/', '-')[:11]}-{width}")


async def test_the_first_view_is_light(site: Site, eyes: Eyes) -> None:
    requests: list[Request] = []
    eyes.page.on("requestfinished", lambda request: requests.append(request))
    await eyes.sign_in()
    await eyes.live()

    first = [one for one in requests if "/static/" in one.url or one.url.endswith("/admin/queue")]
    sizes = {one.url: (await one.sizes())["responseBodySize"] for one in first}
    assert 0 < sum(sizes.values()) < BUDGET, sizes


async def test_static_files_are_kept_for_ever_and_come_compressed(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in()
    href = await page.locator("link[rel=stylesheet]").first.get_attribute("href")
    answer = await page.request.get(f"{site.url}{href}", headers={"Accept-Encoding": "gzip"})

    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["content-encoding"] == "gzip"
    plain = await page.request.get(f"{site.url}{href}", headers={"Accept-Encoding": "identity"})
    assert await answer.body() == await plain.body()
    assert len(gzip.compress(await plain.body())) < len(await plain.body())
    missing = await page.request.get(f"{site.url}/static/0000000000000000/app.css")
    assert missing.status == 404


async def test_sms_parts_are_counted_by_alphabet(eyes: Eyes) -> None:
    page = await eyes.sign_in()
    base = (await page.locator("script[type=module]").get_attribute("src") or "").rsplit("/", 1)[0]
    count = "async ([url, text]) => { const {parts, wide} = (await import(url)).smsParts(text); return [parts, wide]; }"
    cases = {
        "a" * 160: [1, False],
        "a" * 161: [2, False],
        "€" * 81: [2, False],
        "ê" * 70: [1, True],
        "ê" * 71: [2, True],
    }

    for text, expected in cases.items():
        assert await page.evaluate(count, [f"{base}/sms.js", text]) == expected, text


async def test_recipients_are_read_from_csv_json_and_plain_lists(eyes: Eyes) -> None:
    page = await eyes.sign_in()
    base = (await page.locator("script[type=module]").get_attribute("src") or "").rsplit("/", 1)[0]
    read = (
        "async ([url, text, rules]) => { const r = (await import(url)).parseRecipients(text, rules);"
        " return {people: r.people, errors: r.errors.map(e => [e.line, e.key]), doubles: r.doubles}; }"
    )

    async def parse(text: str) -> Any:
        return await page.evaluate(read, [f"{base}/recipients.js", text, RULES_OF_SPREADSHEETS])

    jean = {"id": "1", "nom": 'Jean "le grand", dit JD', "email": "j@x.fr", "telephone": "+33612345678"}
    quoted = await parse(
        'Identifiant;Nom;Courriel;Téléphone\n1;"Jean ""le grand"", dit JD";j@x.fr;00 33 6 12 34 56 78\n'
    )
    assert quoted == {"people": [jean], "errors": [], "doubles": 0}
    assert (await parse("j@x.fr\n+33612345678\nj@x.fr"))["doubles"] == 1
    by_phone = (await parse("+33612345678"))["people"][0]
    assert by_phone["preferences"] == {"canal_prefere": "sms"}
    as_json = await parse('{"utilisateurs":[{"id":"1","nom":"J","email":"j@x.fr","preferences":{"actif":false}}]}')
    assert as_json["people"][0]["preferences"] == {"actif": False}
    assert (await parse('[{"id":'))["errors"][0] == [1, "people.bad.json"]
    assert (await parse("id;nom;email\n1;;\n\n2;B;b(at)x"))["errors"] == [
        [2, "people.bad.noemail"],
        [4, "people.bad.email"],
    ]


SPREADSHEETS = [
    "id;nom;email;telephone;langue;canal_prefere;actif\n1;Ana;a@x.fr;;EN;;oui\n\n2;Awa;;+33 6 12.34.56.78;;;Non\n",
    "Identifiant,NOM,Courriel,Téléphone,canal\n1,Jean,j@x.fr,0033612345678,SMS\n2,Zoé,z@x.fr,,\n",
    "nom\temail\nAna\ta@x.fr\nSans adresse\t\n",
    "email;couriel\na@x.fr;b@x.fr\n",
    "id;mail;courriel\n1;a@x.fr;a@x.fr\n",
    "id;nom;email\n1;Ana;a@x.fr\n2;Jean\n",
    "id;email;actif\n1;a@x.fr;peut-être\n",
    "id;email;canal\n1;a@x.fr;Sirene-Nord\n",
    "telephone;nom\n0612345678;Max\n",
    "tel;nom\n+33 (0)6 12 34 56 78;Max\n0041 (0) 44 668 18 00;Léa\n",
    "tel;nom\n(0)6 12 34 56 78;Max\n",
    "tel;nom\n+33\u00a06\u202f12 34 56 78;Max\n",
    "\n\nid,nom,email\n1,Ana,a@x.fr\n",
    "id;nom;email\r1;Ana;a@x.fr\r",
    '"id";"nom";"email"\r\n"1";"Ana, dite A";"a@x.fr"\r\n',
    "sep=;\nid;nom;email\n1;Ana;a@x.fr\n",
    "id;nom;email;\n1;Ana;a@x.fr;\n",
]


async def test_the_page_and_the_command_line_read_one_file_alike(eyes: Eyes) -> None:
    await eyes.page.goto(f"{eyes.site.url}/admin/login")
    base = (await eyes.page.locator("link[rel=stylesheet]").first.get_attribute("href") or "").rsplit("/", 1)[0]
    read = "async ([url, ...more]) => (await import(url)).parseRecipients(...more)"
    for text in SPREADSHEETS:
        page = await eyes.page.evaluate(read, [f"{base}/js/recipients.js", text, RULES_OF_SPREADSHEETS])
        try:
            people, line = read_csv(text, "x"), None
        except Stop as stop:
            people, line = [], int(str(stop).split("line ")[1].split(":")[0])

        assert (page["errors"][0]["line"] if page["errors"] else None) == line, text
        if line is None:
            assert page["people"] == people, text


async def test_a_list_is_covered_by_its_number_and_by_nothing_else(eyes: Eyes) -> None:
    await eyes.page.goto(f"{eyes.site.url}/admin/login")
    base = (await eyes.page.locator("link[rel=stylesheet]").first.get_attribute("href") or "").rsplit("/", 1)[0]
    shown = await eyes.page.evaluate(
        """async (url) => {
          const { TaskList } = await import(url);
          const progress = { sent: 0, failed: 0, skipped: 0, total: 1 };
          const more = { type: "meteo", priority: "HAUTE", attempts: 1, run: 1, progress };
          const task = (id, status) => ({ id, status, titre: id, created_at_iso: "2026-01-01T00:00:00.000Z", ...more });
          const event = (seq, name, ...of) => ({ seq, event: `task.${name}`, task: task(...of) });
          const none = { status: [], type: [], priority: [], q: "", since: "", until: "" };
          const answers = [];
          const list = new TaskList(() => new Promise((done) => answers.push(done)), none);
          const loading = list.load();
          list.apply([event(5, "enqueued", "b", "pending"), event(9, "deleted", "c", "completed")]);
          list.apply([event(7, "completed", "a", "completed"), event(8, "enqueued", "d", "pending")]);
          answers[0]({ tasks: ["d", "c", "a"].map((id) => task(id, "processing")), next_cursor: null, seq: 7 });
          await loading;
          list.apply([event(7, "failed", "a", "failed"), event(6, "started", "d", "processing")]);
          const first = list.order.map((id) => `${id} ${list.get(id).status}`);
          list.frozen = true;
          const again = list.load({ keep: true });
          list.apply([event(12, "enqueued", "e", "pending")]);
          answers[1]({ tasks: [task("d", "completed")], next_cursor: null, seq: 10 });
          await again;
          return [first, list.order.map((id) => `${id} ${list.get(id).status}`)];
        }""",
        f"{base}/js/list.js",
    )

    # "a" and "b" are covered by the list (seq 7), which has no "b"; of "d" and "c" events behind it say more
    assert shown == [["d pending", "a processing"], ["e pending", "d completed"]]


async def test_tasks_in_hand_are_not_taken_from_a_snapshot_that_is_older(eyes: Eyes) -> None:
    await eyes.page.goto(f"{eyes.site.url}/admin/login")
    base = (await eyes.page.locator("link[rel=stylesheet]").first.get_attribute("href") or "").rsplit("/", 1)[0]
    running = await eyes.page.evaluate(
        """async (url) => {
          const { State } = await import(url);
          const state = new State();
          const task = (id, status = "processing") => ({ id, status });
          const learning = state.learnRunning(async () => {
            state.take({ kind: "events", events: [{ seq: 8, event: "task.completed", task: task("a", "completed") }] });
            state.take({ kind: "events", events: [{ seq: 6, event: "task.started", task: task("b") }] });
            return { seq: 7, tasks: [task("a"), task("b"), task("c")] };
          });
          await learning;
          return [...state.running.keys()].sort();
        }""",
        f"{base}/js/store.js",
    )

    assert running == ["b", "c"]
