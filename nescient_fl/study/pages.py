"""What every HTML page of a study shares: its templates, its style, and pictures that travel in the page."""

import base64
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup


def page_environment(*styles: str) -> "tuple[jinja2.Environment, Markup]":
    """Return the environment of the templates, and the named style sheets as one text to stand in a page."""
    import jinja2
    from markupsafe import Markup

    loader = jinja2.PackageLoader("nescient_fl.study", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment, Markup("\n".join(loader.get_source(environment, name)[0] for name in styles))


def jpeg_uri(pixels: NDArray[np.uint8]) -> str:
    """Return grey levels uint8 [rows, columns] as a JPEG in a data URI."""
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
