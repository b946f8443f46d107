"""Train the network on all data in one place, as the write-up did: ``python -m nescient_fl.centralize``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command


def _option(help: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, show_default=False, **kwargs)


def centralize(
    epochs: Annotated[int, typer.Option(help="Epochs to train.")] = 20,
    recipe: Annotated[str | None, _option("paper or default. [dim](paper)[/]")] = None,
    data: Annotated[list[str] | None, _option("Dataset folder. [dim](synthetic radiographs)[/]")] = None,
    source: Annotated[list[str] | None, _option("chexpert or nih. [dim](told from the folder)[/]")] = None,
    phantom_images: Annotated[
        int | None, _option("Synthetic radiographs to draw when there is no --data. [dim](2400)[/]")
    ] = None,
    cohort: Annotated[str | None, _option("corrected or paper. [dim](corrected)[/]")] = None,
    uncertain: Annotated[str | None, _option("exclude, positive or negative. [dim](exclude)[/]")] = None,
    balance: Annotated[float | None, _option("Negatives for each positive. [dim](1.0)[/]")] = None,
    geometry: Annotated[str | None, _option("upright or paper. [dim](as the recipe's name)[/]")] = None,
    activation: Annotated[str | None, _option("relu or gelu. [dim](relu)[/]")] = None,
    dropout: Annotated[float | None, _option("Of the hidden dense layers. [dim](0)[/]")] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of a step's gradient. [dim](none)[/]")] = None,
    weight_decay: Annotated[float | None, _option("Instead of the recipe's.")] = None,
    learning_rate: Annotated[float | None, _option("Instead of the recipe's.")] = None,
    batch_size: Annotated[int | None, _option("Instead of the recipe's.")] = None,
    device: Annotated[str | None, _option("auto, cpu or cuda. [dim](auto)[/]")] = None,
    seed: Annotated[int | None, _option("The same seed trains the same model. [dim](0)[/]")] = None,
    target_recall: Annotated[
        float | None, _option("Recall that the operating point is chosen for, on validation. [dim](0.9)[/]")
    ] = None,
    out: Annotated[Path | None, _option("The run folder to write. [dim](a new one below runs/)[/]")] = None,
    resume: Annotated[
        Path | None, _option("Go on with an interrupted run; --epochs may be larger than before.")
    ] = None,
) -> None:
    """Train the lesion network on all radiographs in one place, and print recall and precision.

    With the paper recipe (the default here) this is the write-up's training run: Adam 5e-4, weight decay
    1e-4, batches of 8, grey levels divided by 255, a tenth of the patients for validation.
    """
    options = {
        key: value for key, value in locals().items() if key not in ("epochs", "out", "resume") and value is not None
    }
    from nescient_fl.arms.centralized import run_centralized

    run_centralized(options, epochs=epochs, out=out, resume=resume)


if __name__ == "__main__":
    run_command(centralize)
