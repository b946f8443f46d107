"""Reading a finished run folder, and saying in a line what was run and how to run it again."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nescient_fl.errors import UserError
from nescient_fl.study.audit_page import read_audit
from nescient_fl.study.report_values import Json, count, plain, real, section

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 1


@dataclass(frozen=True)
class RunFolder:
    """What a report is made from."""

    name: str
    config: Json
    metrics: Json
    rounds: list[Json]
    cohort: "pd.DataFrame"
    partition: "pd.DataFrame"
    audit: Json | None = None

    @property
    def synthetic(self) -> bool:
        """Whether the data is known to be synthetic; anything but a clear yes is a no."""
        return section(self.metrics, "data").get("synthetic") is True


def read_run(run: Path) -> RunFolder:
    """Read a run folder; a missing or unreadable file is the user's to mend."""
    import pandas as pd

    metrics = _read_object(run / "metrics.json")
    if metrics.get("format") != FORMAT:
        raise UserError(
            f"{run / 'metrics.json'} has format {metrics.get('format')}, this version reads {FORMAT};"
            " use the version that wrote the run"
        )
    text = {"patient": str, "study": str, "image": str}
    tables = []
    for name in ("cohort.csv", "partition.csv"):
        path = _existing(run / name)
        # Only a blank is unknown: a site may be called NA.
        table = pd.read_csv(path, dtype=text | {"site": str}, keep_default_na=False, na_values={"age": [""]})
        tables.append(table)
    cohort, partition = tables
    return RunFolder(
        run.resolve().name,
        _read_object(run / "config.json"),
        metrics,
        _read_lines(run / "rounds.jsonl"),
        cohort,
        partition,
        read_audit(run),
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path} is missing, so there is no finished run to report on; run the study again")
    return path


def _read_object(path: Path) -> Json:
    try:
        found = json.loads(_existing(path).read_text(encoding="utf-8"), parse_constant=lambda _: None)
    except ValueError as error:
        raise UserError(f"{path} is not readable JSON ({error}); run the study again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} does not hold a JSON object; run the study again")
    return found


def _read_lines(path: Path) -> list[Json]:
    """Read a line a round; a last line that a crash cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line, parse_constant=lambda _: None))
        except ValueError as error:
            if number < len(lines):
                raise UserError(f"{path}, line {number}, is not readable JSON ({error})") from error
    return found


def one_line(run: RunFolder) -> str:
    """Say what was run."""
    data, federation = section(run.metrics, "data"), section(run.metrics, "federation")
    parts = []
    clients, rounds, epochs = (real(federation.get(key)) for key in ("clients", "rounds", "local_epochs"))
    if clients is not None:
        parts.append(f"{count(clients)} {'site' if clients == 1 else 'sites'}")
    if rounds is not None:
        text = f"{count(rounds)} {'round' if rounds == 1 else 'rounds'}"
        if epochs is not None:
            text += f" of {count(epochs)} local {'epoch' if epochs == 1 else 'epochs'}"
        parts.append(text)
    for key, text in (("partition", "{} partition"), ("source", "data: {}")):
        if data.get(key):
            parts.append(text.format(data[key]))
    if real(data.get("images")) is not None:
        parts.append(f"{count(data['images'])} images of {count(data.get('patients'))} patients")
    recipe = flat(run.config).get("recipe")
    if recipe:
        parts.append(f"{plain(recipe)} recipe")
    parts.append(f"seed {plain(run.metrics.get('seed'))}")
    return ", ".join(parts)


ALWAYS_SAID = ("clients", "rounds", "seed")


def rerun_command(config: Mapping[str, Any]) -> str:
    """Return the command that makes this run: a whole one as recorded, or a program and its settings.

    Settings that are the defaults go without saying, but for the few that a reader looks for.
    """
    from nescient_fl.study.settings import StudySettings

    command = config.get("command")
    if isinstance(command, list) and command:
        return shlex.join(str(word) for word in command)
    program = command if isinstance(command, str) and command else "python -m nescient_fl.simulate"
    words, options = shlex.split(program), flat(config)
    for option in fields(StudySettings):
        value, flag = options.get(option.name), "--" + option.name.replace("_", "-")
        default = list(option.default) if isinstance(option.default, tuple) else option.default
        if value is None or (value == default and option.name not in ALWAYS_SAID):
            continue
        if isinstance(value, bool):
            words.append(flag if value else flag.replace("--", "--no-", 1))
            continue
        for item in value if isinstance(value, list) else [value]:
            words += [flag, str(item)]
    return shlex.join(words)


def flat(config: Mapping[str, Any]) -> Json:
    """Return the settings with those of an inner ``settings`` section beside the others."""
    inner = section(config, "settings")
    return {key: value for key, value in config.items() if key != "settings"} | inner
