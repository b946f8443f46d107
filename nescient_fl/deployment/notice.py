"""Where a deployment on this machine lies, for another process to ask its actors: a note in the run folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nescient_fl.errors import UserError
from nescient_fl.study.run_folder import RunFolder, read_json, write_json


@contextmanager
def noticed(run: RunFolder, private: Path) -> Iterator[None]:
    """Keep the note while the context lasts. One that a killed launcher left is of a folder that is gone."""
    write_json(run.deployment, {"folder": str(private)})
    try:
        yield
    finally:
        run.deployment.unlink(missing_ok=True)


def deployed_in(run: RunFolder) -> Path | None:
    """Return the private folder of the deployment that runs a run on this machine now, None when none does."""
    try:
        noted = read_json(run.deployment)
    except (UserError, OSError):
        return None
    folder = noted.get("folder") if isinstance(noted, dict) else None
    if not isinstance(folder, str) or not run.in_use() or not Path(folder).is_dir():
        return None
    return Path(folder)
