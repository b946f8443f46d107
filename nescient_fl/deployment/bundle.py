"""The Flower app that a coordinator hands out: two lines that name what is installed at every member already.

The same bytes come of the same version everywhere, so a member can tell a changed one by its hash.
"""

import hashlib

from nescient_fl import __version__

NAME = "nescient-federation"
PUBLISHER = "nescient"

_PYPROJECT = f"""\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "{NAME}"
version = "{__version__}"
description = "Names the apps of an installed nescient_fl"
license = "LicenseRef-Installed"
dependencies = ["flwr~=1.41.0"]

[tool.flwr.app]
publisher = "{PUBLISHER}"

[tool.flwr.app.components]
serverapp = "nescient_federation.server:app"
clientapp = "nescient_federation.client:app"

[tool.flwr.app.config]
run = ""
events = ""
"""

_FILES = {
    "pyproject.toml": _PYPROJECT,
    "nescient_federation/__init__.py": '"""The apps of an installed nescient_fl."""\n',
    "nescient_federation/client.py": "from sites.client import app as app\n",
    "nescient_federation/server.py": "from strategies.server import app as app\n",
}


def build_bundle() -> bytes:
    """Return the app as Flower's bundle (FAB)."""
    from flwr.cli.build import build_fab_from_files

    files = {path: text.encode() for path, text in _FILES.items()}
    content, _ = build_fab_from_files(files)
    return content


def bundle_sha256(content: bytes) -> str:
    """Return a bundle's hash, as Flower names it."""
    return hashlib.sha256(content).hexdigest()
