"""Attack a secure study, and say what the attackers got: ``python -m nescient_fl.audit runs/NAME``."""

from pathlib import Path
from typing import Annotated

import typer

from nescient_fl.cli import run_command


def audit(
    run: Annotated[
        Path | None,
        typer.Argument(help="Folder of a finished secure study; without one, the default settings are audited."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for audit.json and audit.html. [dim](the study's; without one, a new one below runs/)[/]",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Attack secure aggregation as relay, party and outsider, and compare with plain averaging.

    Every attack is first shown to work on updates in clear, then tried on sealed
    ones with the settings of RUN, a finished secure study, or with the defaults.
    Sites, synthetic radiographs and keys are made for the audit. Ends with
    status 1 if an attack on what is protected succeeds.
    """
    import os
    import time

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from nescient_fl.attacks.subject import default_subject, describe, subject_of
    from nescient_fl.attacks.suite import ATTACKS, run_attacks_apart
    from nescient_fl.study.audit_page import write_audit
    from nescient_fl.study.audit_record import audit_folder, audit_record, audit_table, sentences

    subject = default_subject() if run is None else subject_of(run)
    folder = audit_folder(run, out)
    torch.set_num_threads(os.cpu_count() or 1)
    console = Console()
    started = time.monotonic()
    findings = []
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("[dim]{task.fields[phrase]}"), console=console, transient=True) as bar:
        # The last attack is on a run's own record.
        total = len(ATTACKS) - (subject.run is None)
        task = bar.add_task("Drawing synthetic radiographs", total=total, phrase="")

        def told(key: str, phrase: str) -> None:
            bar.update(task, description=ATTACKS.get(key, "Drawing synthetic radiographs"), phrase=phrase)

        for finding in run_attacks_apart(subject, told):
            findings.append(finding)
            bar.update(task, completed=len(findings))
    record = audit_record(
        None if run is None else run.resolve().name,
        [finding.record(subject.private) for finding in findings],
        describe(subject),
        time.monotonic() - started,
    )
    pictures = [[(picture.caption, picture.pixels) for picture in row] for one in findings for row in one.pictures]
    page = write_audit(folder, record, pictures, synthetic=True)
    console.print(audit_table(record))
    for sentence in sentences(record):
        console.print(sentence, highlight=False, soft_wrap=True, markup=False)
    console.print(f"Page: {page}", highlight=False, soft_wrap=True, markup=False)
    raise typer.Exit(0 if record["passed"] else 1)


if __name__ == "__main__":
    run_command(audit)
