"""A node that is stopped: by its log, whether an answer is still to be sent."""

from pathlib import Path

import pytest

from nescient_fl.deployment.supernode import answer_under_way

GOT = "INFO :      Receiving: train message (ID: a1)\nINFO :      Received successfully\n"
SENT = "INFO :      Sending: train message (ID: b2)\nINFO :      Sent successfully\n"


@pytest.mark.parametrize(
    ("text", "under_way"),
    [
        ("", False),
        ("INFO :      SuperNode ID: 7\n", False),
        (GOT, True),
        (GOT + "INFO :      Sending: train message (ID: b2)\n", True),
        (GOT + SENT, False),
        (GOT + SENT + GOT, True),
        (GOT + "ERROR :     Failed to send message b2: gone\n", False),
        (GOT + "INFO :      Run ID 5 is not in `RUNNING` status. Ignoring reply message b2.\n", False),
        ("x" * 100_000 + GOT, True),
        (GOT + SENT + "x" * 100_000, False),
    ],
)
def test_an_answer_is_under_way_until_the_link_has_it(text: str, under_way: bool, tmp_path: Path) -> None:
    (tmp_path / "supernode.log").write_text(text)
    assert answer_under_way(tmp_path / "supernode.log") == under_way
