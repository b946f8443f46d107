"""What the coordinator makes of a link that is slow to answer."""

from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from flwr.common.constant import Status, SubStatus

from nescient_fl.deployment import control
from nescient_fl.deployment.control import Control


class Link:
    """Answers with what is prepared, and fails where that is an exception."""

    def __init__(self) -> None:
        self.says: Any = None

    def ListRuns(self, _: object) -> Any:
        if isinstance(self.says, Exception):
            raise self.says
        return SimpleNamespace(run_dict={7: SimpleNamespace(status=self.says)})


def test_a_link_that_is_busy_for_a_while_ends_no_run_and_one_that_is_silent_for_good_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    link = Link()
    client = SimpleNamespace(from_server_address=lambda **_: link)
    monkeypatch.setattr(control, "ControlHttpClient", client)
    now = 1000.0
    monkeypatch.setattr(control.time, "monotonic", lambda: now)
    asked = Control("127.0.0.1:1", SimpleNamespace(read_bytes=lambda: b""))  # type: ignore[arg-type]
    running = SimpleNamespace(status="running", sub_status="", details="")
    for says, found in (
        (httpx.ReadTimeout("slow"), None),
        (running, None),
        (SimpleNamespace(status=Status.FINISHED, sub_status=SubStatus.COMPLETED, details=""), None),
        (SimpleNamespace(status=Status.FINISHED, sub_status=SubStatus.FAILED, details="why"), "why"),
        (httpx.ReadTimeout("slow"), None),
    ):
        now += 100.0
        link.says = says
        assert asked.failure(7) == found
    now += 21.0
    with pytest.raises(httpx.ReadTimeout):
        asked.failure(7)
