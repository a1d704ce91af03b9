"""What would make somebody stop for a second who sees the pages for the first time."""

from __future__ import annotations

import pytest
from playwright.async_api import expect

from server.model import Role
from tests.browser.kit import Eyes, Site

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_what_a_viewer_may_not_see_names_the_role_in_the_readers_language(site: Site, eyes: Eyes) -> None:
    page = await eyes.sign_in(await site.key(Role.VIEWER), path="/admin/send")

    await expect(page.locator("main")).to_contain_text("il faut le rôle opérateur")
    eyes.forget("403")
