"""The report of a study: what it says, what it refuses, and that it stands alone."""

import html
import json
import re
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sample_run import SampleRun, edit_metrics, encrypted_part, write_sample_run

from nescient_fl.errors import UserError
from nescient_fl.study.figures import partition_picture
from nescient_fl.study.report import GalleryItem, write_report
from nescient_fl.study.report_sites import natural, site_contents
from nescient_fl.study.report_terminal import terminal_table

NASTY = "<script>alert(1)</script> $x_1$ \"quoted\" & 'so' #0063a3 var(--ink)"


class PageReader(HTMLParser):
    """Collects what a page holds: ids, references, resources, and text outside of style sheets."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.ids: list[str] = []
        self.references: list[str] = []
        self.text: list[str] = []
        self.labels: list[str | None] = []
        self._within: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        found = dict(attrs)
        self._within.append(tag)
        if found.get("id"):
            self.ids.append(found["id"] or "")
        if found.get("role") == "img":
            self.labels.append(found.get("aria-label"))
        for key, value in attrs:
            assert not key.startswith("on"), f"an event handler: {key}"
            if key in ("src", "href", "xlink:href", "action", "data", "poster", "srcset"):
                self.references.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self._within.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "style" in self._within:
            self.references += re.findall(r"url\(([^)]*)\)|@import\s*(\S+)", data)
        else:
            self.text.append(data)


def report_text(run: Path) -> str:
    return write_report(run).read_text(encoding="utf-8")


def gallery_items() -> list[GalleryItem]:
    pixels = np.tile(np.linspace(0, 255, 390).astype(np.uint8), (320, 1))
    return [GalleryItem(pixels, f"PA {NASTY}", target, score, 0.4) for target in (0, 1) for score in (0.2, 0.9)]


CASES = {
    "five": SampleRun(images=400),
    "one": SampleRun(sites=1, images=200, rounds=1),
    "thirty": SampleRun(sites=30, images=900, rounds=3),
    "federated only": SampleRun(images=300, arms=("federated",)),
    "pooled only": SampleRun(images=300, arms=("pooled",)),
    "no intervals": SampleRun(images=300, intervals=False),
    "no lesion to find": SampleRun(images=300, test_positives=False),
    "encrypted": SampleRun(images=300, encrypted=True),
    "real": SampleRun(images=300, synthetic=False),
    "nasty": SampleRun(images=300, names=(NASTY, "</title><b>", "\u75c5\u9662 \u4e00", "x" * 300)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Fabricated runs with their reports written."""
    folder = tmp_path_factory.mktemp("runs")
    made = {}
    for name, sample in CASES.items():
        made[name] = write_sample_run(folder / (f"<script>{name}" if name == "nasty" else name), sample)
        write_report(made[name], gallery_items() if name == "nasty" else ())
    return made


@pytest.mark.parametrize("name", CASES)
def test_a_page_stands_alone(runs: dict[str, Path], name: str) -> None:
    page = PageReader((runs[name] / "report.html").read_text(encoding="utf-8"))
    assert page.tags["script"] == page.tags["link"] == page.tags["iframe"] == 0
    assert [i for i, many in Counter(page.ids).items() if many > 1] == []
    for reference in page.references:
        assert reference.startswith(("data:image/", "#")), reference
        if reference.startswith("#"):
            assert reference[1:] in page.ids
    text = " ".join(page.text)
    assert not re.search(r"\b(None|nan|NaN|(?<!is )undefined|inf|null)\b", text)
    assert page.labels

    assert all(page.labels)


@pytest.mark.parametrize("name", CASES)
def test_every_figure_is_a_file_of_its_own(runs: dict[str, Path], name: str) -> None:
    page = (runs[name] / "report.html").read_text(encoding="utf-8")
    files = sorted((runs[name] / "figures").iterdir())
    assert files
    assert page.count('class="figure"') == len(files)
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert text.startswith("<svg")
        assert "var(--" not in text.replace("var(--ink)", "") or name != "nasty"


def test_nothing_is_left_beside_the_report(runs: dict[str, Path]) -> None:
    names = {path.name for path in runs["five"].iterdir()}
    assert names == {
        "cohort.csv",
        "partition.csv",
        "metrics.json",
        "config.json",
        "rounds.jsonl",
        "report.html",
        "figures",
    }


def test_the_same_run_gives_the_same_bytes(runs: dict[str, Path]) -> None:
    paths = [runs["five"] / "report.html", *(runs["five"] / "figures").iterdir()]
    first = [path.read_bytes() for path in paths]
    write_report(runs["five"])
    assert [path.read_bytes() for path in paths] == first


def test_a_gallery_of_real_radiographs_is_refused(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200, synthetic=False))
    with pytest.raises(ValueError, match="real radiographs"):
        write_report(run, gallery_items())
    assert not (run / "report.html").exists()
    assert not (run / "figures").exists()


@pytest.mark.parametrize("claim", [None, 1, "true", "yes"])
def test_a_gallery_needs_a_clear_yes_to_synthetic(tmp_path: Path, claim: object) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    data = json.loads((run / "metrics.json").read_text())["data"]
    edit_metrics(run, data=data | {"synthetic": claim})
    with pytest.raises(ValueError, match="real radiographs"):
        write_report(run, gallery_items())


def test_the_badge_is_there_for_synthetic_data_only(runs: dict[str, Path]) -> None:
    assert "SYNTHETIC DATA: phantom" in (runs["five"] / "report.html").read_text()
    assert "SYNTHETIC" not in (runs["real"] / "report.html").read_text()


def test_parts_that_ran_later_are_shown_as_they_are(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    assert report_text(run).count("Not part of this run.") == 2
    edit_metrics(run, secure={"enabled": True, "parties": 2, "epsilon": None}, encrypted=encrypted_part())
    text = report_text(run)
    assert "Not part of this run." not in text
    assert "Compute parties" in text


def test_encrypted_inference_is_told_in_words_numbers_and_pictures(runs: dict[str, Path], tmp_path: Path) -> None:
    text = " ".join(" ".join(PageReader((runs["encrypted"] / "report.html").read_text()).text).split())
    assert "scored 128 held-out radiographs that its owner never saw" in text
    assert "Every decision was the same as in clear." in text
    assert "Recall at the operating point 0.900 0.840\u20130.950 0.900 0.840\u20130.950" in text
    assert "One radiograph took 0.047 s in batches of 8" in text
    assert "Sent by either side an image 1.35 MB" in text
    assert "Times quicker than CrypTen" not in text
    drawing = (runs["encrypted"] / "figures" / "encrypted_time.svg").read_text()
    assert "46 in all; most for pool, 25" in drawing
    assert "convolution" in drawing
    assert not (runs["five"] / "figures" / "encrypted_time.svg").exists()
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    edit_metrics(run, encrypted=encrypted_part() | {"flipped": 3, "agreement": 125 / 128, "stock_ratio": 21.5})
    text = report_text(run)
    assert "3 decisions were not as in clear." in text
    assert "97.66%" in text
    assert "Times quicker than CrypTen as it comes" in text


def test_a_figure_of_an_earlier_report_does_not_stay(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    write_report(run)
    assert (run / "figures" / "sites_recall.svg").exists()
    metrics = json.loads((run / "metrics.json").read_text())
    edit_metrics(run, arms=metrics["arms"] | {"local": None})
    write_report(run)
    assert not (run / "figures" / "sites_recall.svg").exists()


def test_what_was_left_out_is_told(runs: dict[str, Path]) -> None:
    text = (runs["real"] / "report.html").read_text()
    assert "train/p1.jpg: truncated" in text
    assert "lateral view" in text
    assert "Fewer negated images than asked for." in text
    assert "No file was rejected." in (runs["five"] / "report.html").read_text()


def test_the_command_to_run_it_again_is_there(runs: dict[str, Path]) -> None:
    text = html.unescape((runs["federated only"] / "report.html").read_text())
    assert (
        "python -m nescient_fl.simulate --clients 5 --rounds 12 --local-epochs 1 --partition dirichlet"
        " --alpha 0.5 --seed 7 --no-baselines" in text
    )
    assert "--data /data/CheXpert-v1.0-small" in (runs["real"] / "report.html").read_text()


def test_the_partition_picture_stands_alone(runs: dict[str, Path], tmp_path: Path) -> None:
    cohort, partition = (pd.read_csv(runs["five"] / f"{name}.csv") for name in ("cohort", "partition"))
    picture = partition_picture(cohort, partition, tmp_path / "partition.svg")
    text = picture.read_text()
    assert "site-5" in text
    assert partition_picture(cohort, partition, picture).read_text() == text
    png = partition_picture(cohort, partition, tmp_path / "partition.png")
    assert png.read_bytes().startswith(b"\x89PNG")


def test_tables_in_another_order_are_matched_by_image(runs: dict[str, Path]) -> None:
    cohort, partition = (pd.read_csv(runs["five"] / f"{name}.csv") for name in ("cohort", "partition"))
    assert site_contents(cohort, partition.sample(frac=1, random_state=1)) == site_contents(cohort, partition)
    twice = partition.assign(image="same.jpg")
    with pytest.raises(UserError, match="twice"):
        site_contents(cohort, twice)


def test_sites_stand_in_natural_order() -> None:
    assert sorted(["site-10", "site-2", "ward", "site-1"], key=natural) == [
        "site-1",
        "site-2",
        "site-10",
        "ward",
    ]


def test_an_unfinished_run_is_one_clear_line(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    (run / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=r"metrics\.json"):
        write_report(run)
    (run / "metrics.json").unlink()
    with pytest.raises(UserError, match="missing"):
        write_report(run)


def test_a_round_that_a_crash_cut_short_is_left_out(tmp_path: Path) -> None:
    run = write_sample_run(tmp_path / "run", SampleRun(images=200))
    with (run / "rounds.jsonl").open("a") as stream:
        stream.write('{"round": 99, "sit')
    assert "99" not in re.findall(r'<th scope="row">(\d+)</th>', report_text(run))


def test_a_gallery_item_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="uint8"):
        GalleryItem(np.zeros((320, 390), np.float32), "", 0, 0.1, 0.5)
    with pytest.raises(ValueError, match="target"):
        GalleryItem(np.zeros((320, 390), np.uint8), "", 2, 0.1, 0.5)


@pytest.mark.parametrize("name", ["five", "federated only", "no intervals", "no lesion to find", "nasty"])
def test_the_terminal_table_fits_80_columns(runs: dict[str, Path], name: str) -> None:
    metrics = json.loads((runs[name] / "metrics.json").read_text())
    stream = StringIO()
    Console(file=stream, width=80).print(terminal_table(metrics))
    text = stream.getvalue()
    assert max(len(line) for line in text.splitlines()) <= 80
    assert "\u2026" not in text
    assert "None" not in text
    assert "SYNTHETIC" in text
    if name == "five":
        assert "mean of sites" in text
