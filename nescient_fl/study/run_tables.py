"""A list of runs to be compared: a table in the terminal, and one page."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nescient_fl.study.pages import page_environment
from nescient_fl.study.report_tables import Cell, Table
from nescient_fl.study.report_terminal import cell
from nescient_fl.study.report_values import ARMS, MISSING, ArmName, Interval, Json, fixed, with_bounds
from nescient_fl.study.run_list import HASH_LETTERS, Run, RunList

if TYPE_CHECKING:
    import rich.table

METRICS = (("recall_half", "Recall at 0.5"), ("recall_point", "Recall at the operating point"), ("auroc", "AUROC"))
_COLOURS = {"finished": "", "unfinished": "yellow", "damaged": "red"}


def runs_table(listed: RunList) -> "rich.table.Table":
    """Return a row a run: what it was, and its arms' figures below each other; for 80 columns."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Held-out patients, with 95% intervals",
        caption="* at the operating point, chosen on validation patients",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        title_justify="left",
        caption_justify="left",
    )
    table.add_column("run", overflow="fold")
    for name in ("arm", "recall at 0.5", "recall *", "AUROC"):
        table.add_column(name, no_wrap=True)
    for run in listed.runs:
        about = Text.assemble((run.name, "bold"), "\n", about_run(run))
        if run.state != "finished" or run.note:
            about.append(f"\n{state_words(run)}", _COLOURS[run.state])
        if run.model_sha256:
            mark = " (same model)" if listed.same_model(run) else ""
            about.append(f"\n{run.model_sha256[:HASH_LETTERS]}{mark}", "dim")
        lines = [_arm_line(run, name) for name in ARMS] if run.figures else [[MISSING] * 4]
        table.add_row(about, *map("\n".join, zip(*lines, strict=True)), end_section=True)
    return table


def about_run(run: Run) -> str:
    """Say in a line what was run."""
    known = [f"{run.begun:%Y-%m-%d %H:%M}"] if run.begun else []
    known += [_data(run)] if run.source != MISSING else []
    division = "" if run.partition == MISSING else f" ({run.partition})"
    known += [f"{run.clients} sites{division}"] if run.clients != MISSING else []
    known += [f"{run.rounds} rounds"] if run.rounds != MISSING else []
    return ", ".join(known + [text for text in (run.engine, run.privacy) if text != MISSING])


def state_words(run: Run) -> str:
    """Say whether a run is finished, and what more there is to say of that."""
    return f"{run.state}: {run.note}" if run.note else run.state


def sentences(listed: RunList) -> list[str]:
    """Say which runs have the same model, and which folders were left out."""
    said = [f"Same model ({sha256[:HASH_LETTERS]}): {', '.join(names)}." for sha256, names in listed.models().items()]
    if listed.others:
        said.append(f"Not runs: {', '.join(listed.others)}.")
    return said


def render_runs(listed: RunList) -> str:
    """Return the text of the page; no path of this machine is in it."""
    environment, style = page_environment("report.css", "runs.css")
    scored = [run for run in listed.runs if run.figures]
    states = [run.state for run in listed.runs]
    return environment.get_template("runs.html.j2").render(
        style=style,
        total=len(states),
        counts={state: states.count(state) for state in ("finished", "unfinished", "damaged") if state in states},
        synthetic=sum(run.synthetic is True for run in listed.runs),
        settings=_settings_table(listed),
        plots=[_plot(scored, metric, title) for metric, title in METRICS],
        figures=_figures_table(scored),
        sentences=sentences(listed),
    )


def _arm_line(run: Run, name: ArmName) -> list[str]:
    figures = run.figures.get(name)
    if figures is None:
        return [name, "did not run", MISSING, MISSING]
    return [name, cell(figures.recall_half), cell(figures.recall_point), cell(figures.auroc)]


def _data(run: Run) -> str:
    return f"SYNTHETIC {run.source}" if run.synthetic else run.source


def _settings_table(listed: RunList) -> Table:
    rows: list[Sequence[Cell]] = []
    for run in listed.runs:
        same = listed.same_model(run)
        sha256 = run.model_sha256[:HASH_LETTERS] or MISSING
        updates, _, protection = run.privacy.partition(", ")
        rows.append(
            [
                run.name,
                (run.state, run.note) if run.note else run.state,
                (sha256, f"same as {_named(same)}") if same else sha256,
                f"{run.begun:%Y-%m-%d %H:%M}" if run.begun else MISSING,
                (run.source, "synthetic") if run.synthetic else run.source,
                run.clients if run.partition == MISSING else (run.clients, run.partition),
                *(run.rounds, run.engine),
                (updates, protection) if protection else updates,
            ]
        )
    head = ["Run", "State", "Model", "Begun", "Data", "Sites", "Rounds", "Engine", "Updates"]
    return Table("Settings, state and model", head, rows)


def _named(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _figures_table(runs: Sequence[Run]) -> Table:
    rows: list[Sequence[Cell]] = []
    for run in runs:
        cells: list[Cell] = [run.name]
        for name in ARMS:
            for metric, _ in METRICS:
                interval = _interval(run, name, metric)
                cells.append(
                    fixed(interval.value) if interval.bounds is None else (fixed(interval.value), _ends(interval))
                )
        rows.append(cells)
    short = ("recall at 0.5", "recall at op. point", "AUROC")
    head = ["Run", *(f"{name.capitalize()}: {metric}" for name in ARMS for metric in short)]
    return Table("Held-out patients, with 95% intervals", head, rows)


def _interval(run: Run, name: ArmName, metric: str) -> Interval:
    figures = run.figures.get(name)
    return Interval() if figures is None else getattr(figures, metric)


def _ends(interval: Interval) -> str:
    assert interval.bounds is not None
    return f"{interval.bounds[0]:.3f}\u2013{interval.bounds[1]:.3f}"


def _plot(runs: Sequence[Run], metric: str, title: str) -> Json:
    """Return a figure's intervals, in hundredths of the axis from 0 to 1."""
    rows = []
    for run in runs:
        bars = []
        for name in ARMS:
            interval = _interval(run, name, metric)
            if interval.value is None:
                continue
            low, high = interval.bounds or (interval.value, interval.value)
            ends = [100 * min(max(end, 0.0), 1.0) for end in (interval.value, low, high)]
            bars.append({"arm": name, "text": f"{name} {with_bounds(interval)}", "ends": ends})
        rows.append({"name": run.name, "bars": bars})
    return {"title": title, "rows": rows}
