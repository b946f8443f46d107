"""A study as a user starts it: settings, run folder, live view, signals, and the table at the end."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from nescient_fl.arms.conduct import conduct, prepare_run, resume_settings
from nescient_fl.arms.engines import RAY, EngineKind
from nescient_fl.errors import UserError
from nescient_fl.study.progress import TerminalWatcher
from nescient_fl.study.report_terminal import terminal_table
from nescient_fl.study.run_folder import RunFolder, write_json
from nescient_fl.study.settings import StudySettings, differences, make_settings, read_config_file
from strategies.exchange import Stopped


def run_study(
    options: Mapping[str, Any],
    *,
    out: Path | None = None,
    resume: Path | None = None,
    config: Path | None = None,
    prepare_only: bool = False,
    engine_kind: EngineKind = RAY,
    make_watcher: Callable[[Console, int], TerminalWatcher] = TerminalWatcher,
) -> dict[str, Any] | None:
    """Run or resume a study, and print its table. Returns the metrics, None when it was only prepared.

    options are those the user gave; the engine and the live view are those of the command. Raises UserError for
    options that cannot be, and KeyboardInterrupt after Ctrl-C, when everything is stopped and a line has said how
    to go on.
    """
    console = Console(stderr=False)
    settings, run = _open(options, out, resume, config)
    stop = threading.Event()
    with run.locked(new=resume is None), _stopping_on_signals(stop):
        console.print(f"Run folder: {_shown(run.path)}", highlight=False, soft_wrap=True)
        try:
            with make_watcher(console, settings.rounds) as watcher:
                if prepare_only:
                    nodes = prepare_run(settings, run, watcher)
                    watcher.say(
                        f"Prepared. Go on with: flwr run . --run-config 'run=\"{run.path}\"' "
                        f"--federation-config 'num-supernodes={nodes}' --stream"
                    )
                    return None
                metrics = conduct(settings, run, watcher, stop, engine_kind)
        except Stopped:
            console.print(f"Stopped. Go on with: --resume {_shown(run.path)}", soft_wrap=True)
            raise KeyboardInterrupt from None
    console.print(terminal_table(metrics))
    console.print(f"Report: {_shown(run.path / 'report.html')}", highlight=False, soft_wrap=True)
    return metrics


def _open(
    options: Mapping[str, Any], out: Path | None, resume: Path | None, config: Path | None
) -> tuple[StudySettings, RunFolder]:
    from_file = read_config_file(config) if config else {}
    given = {**from_file, **options}
    if resume is None:
        settings = make_settings(given)
        run = RunFolder.create(out)
        # Written at once: a run interrupted before its first round can be resumed too.
        write_json(run.config, {**settings.as_dict(), "settings": settings.as_dict()})
        return settings, run
    if out is not None:
        raise UserError("--resume goes on in the folder of the run itself: leave --out away")
    settings = make_settings(resume_settings(resume))
    changed = differences(settings, given)
    if changed:
        raise UserError(
            f"{resume} was begun with other settings: {', '.join(changed)}; "
            "leave these options away, or start a new run"
        )
    return settings, RunFolder.open(resume)


@contextmanager
def _stopping_on_signals(stop: threading.Event) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop; a second one interrupts at once."""

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _shown(path: Path) -> str:
    """Return a path as the user would type it from here."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
