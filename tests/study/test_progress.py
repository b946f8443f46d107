"""The live view: plain lines where there is no terminal, and bars where there is one."""

from io import StringIO
from typing import Any

from rich.console import Console

from nescient_fl.study.progress import TerminalWatcher


def line(number: int, **figures: Any) -> dict[str, Any]:
    return {"round": number, "validation": {"recall": 0.5, "auroc": 0.75, **figures}}


def shown(terminal: bool = False) -> str:
    console = Console(file=StringIO(), force_terminal=terminal, width=100)
    with TerminalWatcher(console, rounds=2) as watcher:
        watcher.preparing("Decoding radiographs", 0, 1200)
        watcher.preparing("Decoding radiographs", 1200, 1200)
        watcher.sites_joined(["icu-1", "site[2]"])
        watcher.round_validated(line(0, auroc=None))
        watcher.site_answered(1, "icu-1", None)
        watcher.site_answered(1, "site[2]", "cannot read [bold]x[/]")
        watcher.round_validated(line(1))
        watcher.alone_validated("pooled", {"round": 2, "recall": 1.0, "auroc": 0.9})
        watcher.alone_validated("local-site[2]", {"round": 1, "recall": None, "auroc": 0.6})
        watcher.scoring()
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_without_a_terminal_each_thing_is_a_line() -> None:
    assert shown().splitlines() == [
        "Decoding radiographs: 1,200",
        "2 sites joined: icu-1, site[2]",
        "Federated training: round 0/2  recall 0.500  AUROC   -  ",
        "round 1: site[2] left out: cannot read [bold]x[/]",
        "Federated training: round 1/2  recall 0.500  AUROC 0.750",
        "Pooled: round 2/2  recall 1.000  AUROC 0.900",
        "Alone: site[2]: round 1/2  recall   -    AUROC 0.600",
        "Scoring every arm on the held-out patients",
    ]


def test_in_a_terminal_the_round_and_its_figures_stand_beside_a_bar() -> None:
    text = shown(terminal=True)
    for words in ("Federated training", "round 1/2", "recall 0.500", "AUROC 0.750", "50%", "1,200 of 1,200"):
        assert words in text
    assert "left out: cannot read [bold]x[/]" in text
