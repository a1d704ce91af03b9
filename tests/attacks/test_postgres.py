"""The attacks that reach the store, over PostgreSQL: it takes no NUL, no lone surrogate, no number beyond its types.

The same tests as beside this file, with another store behind the door; what is refused before it is not asked again.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from urllib.parse import quote

import pytest
import pytest_asyncio

from tests import stores
from tests.attacks.siege import GOOD, Siege, besieged
from tests.attacks.test_bodies import (
    test_a_key_is_made_of_name_and_role_alone,
    test_acts_on_many_tasks_take_what_they_say,
    test_an_idempotency_key_stands_for_one_body_one_type_and_one_key,
    test_every_field_is_held_to_its_bounds,
    test_what_is_only_text_is_taken_as_it_was_sent,
)
from tests.attacks.test_doors import (
    test_a_cookie_that_the_client_chose_is_never_adopted,
    test_guessing_is_slowed_down_whatever_the_address_says_of_itself,
    test_no_guess_of_an_id_finds_anything,
)
from tests.attacks.test_streams import test_a_query_is_held_to_its_parameters
from tests.attacks.test_text import test_what_is_posted_never_stands_in_the_log

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(scope="module", autouse=True)
def on_postgres() -> Iterator[None]:
    """Every server of this file has PostgreSQL behind it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(stores.ENGINE, "name", "postgres")
        yield


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def siege(tmp_path_factory: pytest.TempPathFactory, on_postgres: None) -> AsyncIterator[Siege]:
    """A server that takes attacks."""
    async with besieged(tmp_path_factory.mktemp("siege")) as siege:
        assert siege.town.store.shared
        yield siege


async def test_a_search_finds_what_it_says_and_no_more(siege: Siege) -> None:
    """Of `%`, `_` and `\\` none is a wildcard or an escape, and no number or date is too far out for the store."""
    for query in (
        "cursor=00000000-0000-0000-0000-000000000000", "cursor=ffffffff-ffff-ffff-ffff-ffffffffffff",
        "since=0001-01-01T00:00:00%2B23:59", "until=9999-12-31T23:59:59-12:00", "q=%EF%BF%BF%F4%8F%BF%BF",
        "q=%5C", "q=%5C%5C%25", "q=%27%3B%20DROP%20TABLE%20task%3B--", "q=" + quote("é" * 200), "type=%5C",
        "&".join(f"type=t{n}" for n in range(100)),
    ):  # fmt: skip
        answer = await siege.ask("GET", f"/api/queue/tasks?{query}")
        assert (answer.status, json.loads(answer.body)["tasks"]) == (200, []), query
    await siege.unharmed()


TITLES = ["100 % sûr", "100 x sûr", "a_b", "axb", "a\\b", "a\\\\b", "a'b", "ÉTÉ"]
FOUND = {
    "%": ["100 % sûr"], "0 %": ["100 % sûr"], "a_b": ["a_b"], "_": ["a_b"], "a\\b": ["a\\b"],
    "\\": ["a\\b", "a\\\\b", "tricky"],
    "\\\\": ["a\\\\b"], "'": ["a'b"], "%%": [], "a%b": [], "__": [], "\\_": [], "\\%": [], "%0": [], "été": ["ÉTÉ"],
    "ÉTÉ": ["ÉTÉ"], "nom": [], "email": [], '"id"': [], '":"': [], "{": [], ",": [], "Jean.DUPONT@": TITLES,
    "u1": TITLES, 'q"u\\é': ["tricky"], "Q\"U\\É": ["tricky"],
}  # fmt: skip


async def test_no_character_of_a_search_means_another(tmp_path_factory: pytest.TempPathFactory) -> None:
    """On both engines: what is searched for is what is found."""
    for engine in ("sqlite", "postgres"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(stores.ENGINE, "name", engine)
            async with besieged(tmp_path_factory.mktemp(engine)) as siege:
                for title in TITLES:
                    assert (await siege.post(GOOD | {"titre": title})).status == 202
                tricky = GOOD["utilisateurs"][0] | {"id": 'q"u\\é', "email": "x@example.org"}
                assert (await siege.post(GOOD | {"titre": "tricky", "utilisateurs": [tricky]})).status == 202
                for said, titles in FOUND.items():
                    answer = await siege.ask("GET", f"/api/queue/tasks?q={quote(said)}")
                    found = [task["titre"] for task in json.loads(answer.body)["tasks"]]
                    assert sorted(found) == sorted(titles), (engine, said)
                siege.discreet()


__all__ = [
    "test_a_cookie_that_the_client_chose_is_never_adopted",
    "test_a_key_is_made_of_name_and_role_alone",
    "test_a_query_is_held_to_its_parameters",
    "test_acts_on_many_tasks_take_what_they_say",
    "test_an_idempotency_key_stands_for_one_body_one_type_and_one_key",
    "test_every_field_is_held_to_its_bounds",
    "test_guessing_is_slowed_down_whatever_the_address_says_of_itself",
    "test_no_guess_of_an_id_finds_anything",
    "test_what_is_only_text_is_taken_as_it_was_sent",
    "test_what_is_posted_never_stands_in_the_log",
]
