"""One name for each node."""

import pytest

from lepton_etl.registers.node_names import NodeNames

LISTED = NodeNames(
    frozenset({"gpu01", "GPU02", "login.site-a.org", "db.a.org", "db.b.org", "10.0.0.1", "node1"})
)


@pytest.mark.parametrize(
    ("logged", "node_id"),
    [
        ("gpu01", "gpu01"),
        ("GPU01.cluster.example.org.", "gpu01"),
        ("gpu02", "GPU02"),
        ("Gpu02.example.org", "GPU02"),
        ("login", "login.site-a.org"),
        # Another domain is another node; a host name that two listed nodes have is neither.
        ("login.site-b.org", "login.site-b.org"),
        ("db", "db"),
        ("DB.B.ORG.", "db.b.org"),
        # An address has no domain.
        ("10.0.0.2", "10.0.0.2"),
        ("Stray.", "stray"),
    ],
)
def test_every_spelling_of_a_node_is_the_listed_one(logged: str, node_id: str) -> None:
    assert LISTED.of(logged) == node_id
    assert NodeNames(LISTED.listed, "as_logged").of(logged) == logged


def test_names_that_look_alike_are_told_unless_all_are_listed() -> None:
    assert LISTED.look_alikes(["gpu01", "login.site-b.org", "node001", "node1001", "node11", "10.0.0.2"]) == [
        ["login.site-a.org", "login.site-b.org"],
        ["node001", "node1"],
    ]
