"""What a process calls itself among the nodes of a cluster."""

from __future__ import annotations

from server.app import node_name


def test_processes_that_share_host_name_and_number_as_containers_do_have_names_of_their_own() -> None:
    assert len({node_name() for _ in range(100)}) == 100
