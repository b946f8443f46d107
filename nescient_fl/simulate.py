"""Run a whole study on one machine: ``python -m nescient_fl.simulate --clients 5``."""

from pathlib import Path
from typing import Annotated, Any

import typer

from nescient_fl.cli import run_command

_STUDY, _PRIVACY, _DATA, _TRAINING = "Study", "Privacy", "Radiographs", "Training"


def _option(help: str, panel: str, **kwargs: Any) -> Any:
    return typer.Option(help=help, rich_help_panel=panel, show_default=False, **kwargs)


def simulate(
    clients: Annotated[int | None, _option("How many hospitals to simulate. [dim](5)[/]", _STUDY)] = None,
    rounds: Annotated[int | None, _option("Rounds of federated training. [dim](16)[/]", _STUDY)] = None,
    local_epochs: Annotated[
        int | None, _option("Epochs that each hospital trains in a round. [dim](2)[/]", _STUDY)
    ] = None,
    partition: Annotated[
        str | None,
        _option(
            "How patients are divided among hospitals: setting (intensive care, ward, outpatients), iid, "
            "dirichlet (uneven labels), quantity (uneven sizes), source (each dataset apart). "
            "[dim](setting; dirichlet where the data do not tell the settings apart)[/]",
            _STUDY,
        ),
    ] = None,
    alpha: Annotated[
        float | None,
        _option("Unevenness of dirichlet (smaller is more uneven) or quantity (larger is).", _STUDY),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(
            "--baselines/--no-baselines",
            help="Train the pooled and the local models too, to compare with. [dim](yes)[/]",
            rich_help_panel=_STUDY,
            show_default=False,
        ),
    ] = None,
    target_recall: Annotated[
        float | None,
        _option("Recall that the operating point is chosen for, on validation. [dim](0.9)[/]", _STUDY),
    ] = None,
    encrypted_images: Annotated[
        int | None,
        _option(
            "Held-out radiographs that the federated model scores under encryption too; 0 for none. [dim](128)[/]",
            _PRIVACY,
        ),
    ] = None,
    server_optimiser: Annotated[
        str | None,
        _option(
            "How a round's average moves the model: avg (FedAvg), avgm (with momentum), adam or yogi (a step of its "
            "own for each weight; decays 0.9 and 0.99, tau 0.001). [dim](avgm)[/]",
            _STUDY,
        ),
    ] = None,
    server_momentum: Annotated[
        float | None,
        _option("Of avgm: share of a round's step that joins the next; 0 is plain FedAvg. [dim](0.7)[/]", _STUDY),
    ] = None,
    server_learning_rate: Annotated[
        float | None, _option("Of adam and yogi: about how far a weight moves in a round. [dim](0.03)[/]", _STUDY)
    ] = None,
    local_objective: Annotated[
        str | None,
        _option(
            "What hospitals train for: plain, or prox, which keeps them near the global model (FedProx). "
            "[dim](plain)[/]",
            _STUDY,
        ),
    ] = None,
    proximal_mu: Annotated[
        float | None, _option("Of prox: how strongly; mu in FedProx. [dim](0.01)[/]", _STUDY)
    ] = None,
    participation: Annotated[
        float | None,
        _option("Share of the hospitals that each round asks, drawn anew for every round. [dim](1)[/]", _STUDY),
    ] = None,
    aggregation: Annotated[
        str | None,
        _option(
            "secure: the coordinator learns only the sum of the hospitals' updates; plain: it sees each. "
            "[dim](secure)[/]",
            _PRIVACY,
        ),
    ] = None,
    parties: Annotated[
        int | None, _option("Compute parties that hold the shares of every update. [dim](2)[/]", _PRIVACY)
    ] = None,
    clip: Annotated[
        float | None,
        _option("Largest norm of a hospital's update; longer ones are shortened to it. [dim](8)[/]", _PRIVACY),
    ] = None,
    strict_membership: Annotated[
        bool | None,
        typer.Option(
            "--strict-membership/--no-strict-membership",
            help="Refuse a sum whose hospitals differ from the last one's by too few to hide them. [dim](no)[/]",
            rich_help_panel=_PRIVACY,
            show_default=False,
        ),
    ] = None,
    share_metrics: Annotated[
        list[str] | None,
        _option(
            "A hospital that tells the coordinator its own figures in clear; may be given several times, or "
            "[b]all[/]. [dim](none)[/]",
            _PRIVACY,
        ),
    ] = None,
    dp_epsilon: Annotated[
        float | None,
        _option("Differential privacy for whole hospitals: the run's budget. [dim](none)[/]", _PRIVACY),
    ] = None,
    dp_delta: Annotated[float | None, _option("The delta that goes with it, such as 1e-5.", _PRIVACY)] = None,
    min_sites: Annotated[
        int | None,
        _option(
            "Hospitals that must answer a round. [dim](four fifths; plain: more than half of those asked)[/]", _STUDY
        ),
    ] = None,
    round_timeout: Annotated[
        float | None, _option("Seconds to wait for a round's answers. [dim](3600)[/]", _STUDY)
    ] = None,
    seed: Annotated[int | None, _option("The same seed gives the same study, bit for bit. [dim](0)[/]", _STUDY)] = None,
    out: Annotated[Path | None, _option("The run folder to write. [dim](a new one below runs/)[/]", _STUDY)] = None,
    resume: Annotated[Path | None, _option("Go on with an interrupted run, with the settings it has.", _STUDY)] = None,
    prepare_only: Annotated[
        bool, _option("Write the run folder and stop, for [b]flwr run[/] to go on with.", _STUDY)
    ] = False,
    config: Annotated[Path | None, _option("TOML file of options; the command line goes first.", _STUDY)] = None,
    data: Annotated[
        list[str] | None,
        _option("Dataset folder; may be given several times. [dim](synthetic radiographs)[/]", _DATA),
    ] = None,
    source: Annotated[
        list[str] | None, _option("What the folder holds: chexpert or nih. [dim](told from it)[/]", _DATA)
    ] = None,
    phantom_images: Annotated[
        int | None, _option("Synthetic radiographs to draw when there is no --data. [dim](2400)[/]", _DATA)
    ] = None,
    cohort: Annotated[
        str | None, _option("Rule that selects radiographs: corrected or paper. [dim](corrected)[/]", _DATA)
    ] = None,
    uncertain: Annotated[
        str | None,
        _option(
            "What the corrected cohort does with uncertain labels: exclude, positive or negative. [dim](exclude)[/]",
            _DATA,
        ),
    ] = None,
    balance: Annotated[float | None, _option("Negatives for each positive. [dim](1.0)[/]", _DATA)] = None,
    geometry: Annotated[
        str | None, _option("How a radiograph fills the frame: upright or paper. [dim](upright)[/]", _DATA)
    ] = None,
    min_images: Annotated[int | None, _option("Fewest radiographs a hospital may have. [dim](40)[/]", _DATA)] = None,
    min_positives: Annotated[
        int | None, _option("Fewest positive ones a hospital may have. [dim](8)[/]", _DATA)
    ] = None,
    recipe: Annotated[
        str | None, _option("How the network is trained: default or paper. [dim](default)[/]", _TRAINING)
    ] = None,
    learning_rate: Annotated[float | None, _option("Instead of the recipe's.", _TRAINING)] = None,
    weight_decay: Annotated[float | None, _option("Instead of the recipe's.", _TRAINING)] = None,
    batch_size: Annotated[int | None, _option("Instead of the recipe's.", _TRAINING)] = None,
    clip_norm: Annotated[float | None, _option("Largest norm of a step's gradient.", _TRAINING)] = None,
    activation: Annotated[str | None, _option("relu or gelu. [dim](relu)[/]", _TRAINING)] = None,
    dropout: Annotated[float | None, _option("Of the hidden dense layers. [dim](0)[/]", _TRAINING)] = None,
    device: Annotated[
        str | None, _option("auto, cpu or cuda: a GPU is shared by the hospitals. [dim](auto)[/]", _TRAINING)
    ] = None,
) -> None:
    """Learn to detect lung lesions across hospitals that never share an image, and report what it cost.

    Divides radiographs among simulated hospitals, trains one model by federated averaging, one on all data
    in one place and one at each hospital alone, compares their recall on the same held-out patients, and
    writes a run folder with report.html. Without --data it draws synthetic radiographs.
    """
    options = {
        key: value
        for key, value in locals().items()
        if key not in ("out", "resume", "config", "prepare_only") and value is not None
    }
    from nescient_fl.arms.session import run_study

    run_study(options, out=out, resume=resume, config=config, prepare_only=prepare_only)


if __name__ == "__main__":
    run_command(simulate)
