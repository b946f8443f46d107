"""Every option of a study, with its default and its bounds: from the command line, a TOML file or a run."""

import difflib
import math
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

from nescient_fl.errors import UserError
from nescient_fl.lesion.recipe import Recipe, choose_recipe

COHORTS = ("corrected", "paper")
UNCERTAIN = ("exclude", "positive", "negative")
GEOMETRIES = ("upright", "paper")
PARTITIONS = ("setting", "iid", "dirichlet", "quantity", "source")
DEVICES = ("auto", "cpu", "cuda")
AGGREGATIONS = ("secure", "plain")
SERVER_OPTIMISERS = ("avg", "avgm", "adam", "yogi")
LOCAL_OBJECTIVES = ("plain", "prox")
_MOMENTUM = 0.7
_SERVER_LEARNING_RATE = 0.03
_PROXIMAL_MU = 0.01
FEWEST_SECURE_SITES = 3
"""Of fewer sites than three, each could tell the other's update from the sum."""


@dataclass(frozen=True)
class ServerStep:
    """The server's optimiser, and of its two parameters the one that it has."""

    optimiser: str
    momentum: float | None = None
    learning_rate: float | None = None


@dataclass(frozen=True)
class StudySettings:
    """One study's options. The command line's help describes each.

    ``data`` and ``source`` go together: the n-th source says what the n-th folder is, and may be missing.
    Options of the recipe that are None keep the recipe's own value. A ``partition`` of None is ``setting``
    where the data tell the settings apart, else ``dirichlet``. ``server_step`` and ``federated_recipe`` say what
    the server's and the local options come to.
    """

    clients: int = 5
    rounds: int = 16
    local_epochs: int = 2
    data: tuple[str, ...] = ()
    source: tuple[str, ...] = ()
    phantom_images: int = 2400
    cohort: str = "corrected"
    uncertain: str = "exclude"
    balance: float = 1.0
    geometry: str = "upright"
    partition: str | None = None
    alpha: float | None = None
    min_images: int = 40
    min_positives: int = 8
    recipe: str = "default"
    learning_rate: float | None = None
    weight_decay: float | None = None
    batch_size: int | None = None
    clip_norm: float | None = None
    activation: str | None = None
    dropout: float | None = None
    device: str = "auto"
    seed: int = 0
    server_optimiser: str = "avgm"
    server_momentum: float | None = None
    server_learning_rate: float | None = None
    local_objective: str = "plain"
    proximal_mu: float | None = None
    participation: float = 1.0
    aggregation: str = "secure"
    parties: int = 2
    clip: float = 8.0
    strict_membership: bool = False
    share_metrics: tuple[str, ...] = ()
    dp_epsilon: float | None = None
    dp_delta: float | None = None
    min_sites: int | None = None
    round_timeout: float = 3600.0
    baselines: bool = True
    target_recall: float = 0.9
    encrypted_images: int = 128

    def __post_init__(self) -> None:
        _at_least("clients", self.clients, 1)
        _at_least("rounds", self.rounds, 1)
        _at_least("local-epochs", self.local_epochs, 1)
        _at_least("phantom-images", self.phantom_images, 1)
        _at_least("min-images", self.min_images, 1)
        _at_least("min-positives", self.min_positives, 1)
        _at_least("seed", self.seed, 0)
        _at_least("encrypted-images", self.encrypted_images, 0)
        _one_of("cohort", self.cohort, COHORTS)
        _one_of("uncertain", self.uncertain, UNCERTAIN)
        _one_of("geometry", self.geometry, GEOMETRIES)
        if self.partition is not None:
            _one_of("partition", self.partition, PARTITIONS)
        _one_of("device", self.device, DEVICES)
        for name, value in (
            ("balance", self.balance),
            ("round-timeout", self.round_timeout),
        ):
            if not value > 0:
                raise UserError(f"--{name} must be above 0, got {value}")
        if self.alpha is not None and not self.alpha >= 0:
            raise UserError(f"--alpha must be 0 or more, got {self.alpha}")
        if not 0 < self.target_recall <= 1:
            raise UserError(f"--target-recall is a share above 0 and up to 1, got {self.target_recall}")
        if len(self.source) > max(len(self.data), 1):
            raise UserError("--source was given more often than --data: give one source a folder")
        if self.min_sites is not None and not 1 <= self.min_sites <= self.clients:
            raise UserError(f"--min-sites must be from 1 to {self.clients} (--clients), got {self.min_sites}")
        _one_of("aggregation", self.aggregation, AGGREGATIONS)
        self._check_server()
        self._check_secrecy()
        self._check_participation()
        self.federated_recipe()

    def _check_server(self) -> None:
        _one_of("server-optimiser", self.server_optimiser, SERVER_OPTIMISERS)
        momentum, rate = self.server_momentum, self.server_learning_rate
        if momentum is not None and not 0 <= momentum < 1:
            raise UserError(f"--server-momentum is from 0 up to 1, got {momentum}")
        if momentum is not None and self.server_optimiser != "avgm" and (momentum or self.server_optimiser != "avg"):
            raise UserError(
                f"--server-momentum {momentum:g} goes with --server-optimiser avgm, not {self.server_optimiser}: "
                "leave one of them away"
            )
        if rate is not None and self.server_optimiser not in ("adam", "yogi"):
            raise UserError(
                f"--server-learning-rate {rate:g} goes with --server-optimiser adam or yogi, not "
                f"{self.server_optimiser}"
            )
        if rate is not None and not 0 < rate < math.inf:
            raise UserError(f"--server-learning-rate must be above 0, got {rate}")
        _one_of("local-objective", self.local_objective, LOCAL_OBJECTIVES)
        mu = self.proximal_mu
        if mu is not None and self.local_objective != "prox":
            raise UserError(f"--proximal-mu {mu:g} goes with --local-objective prox")
        if mu is not None and not 0 < mu < math.inf:
            raise UserError(f"--proximal-mu must be above 0, got {mu}")

    def _check_participation(self) -> None:
        if not 0 < self.participation <= 1:
            raise UserError(f"--participation is a share above 0 and up to 1, got {self.participation}")
        if self.participation < 1 and self.strict_membership:
            raise UserError(
                "--strict-membership refuses a sum whose hospitals are nearly those of the last, as rounds with "
                "--participation draw them: leave one of them away"
            )
        asked, needed = self.asked_sites(self.clients), self.needed_sites(self.clients)
        if asked < needed <= self.clients:
            rule = "a secure sum is" if self.aggregation == "secure" and self.min_sites is None else "a round is"
            lower = "" if self.aggregation == "secure" and asked < FEWEST_SECURE_SITES else f", or --min-sites {asked}"
            raise UserError(
                f"--participation {self.participation:g} asks {asked} of {self.clients} hospitals, but {rule} of "
                f"{needed} or more: say --participation {_share(needed, self.clients)} or more{lower}"
            )

    def _check_secrecy(self) -> None:
        if not 2 <= self.parties <= 9:
            raise UserError(f"--parties must be from 2 to 9, got {self.parties}")
        if not self.clip > 0:
            raise UserError(f"--clip must be above 0, got {self.clip}")
        private = self.dp_epsilon is not None or self.dp_delta is not None
        if self.aggregation == "plain":
            if private or self.strict_membership:
                raise UserError("--dp-epsilon, --dp-delta and --strict-membership need --aggregation secure")
            return
        if self.clients < FEWEST_SECURE_SITES:
            raise UserError(
                f"the sum of {self.clients} sites' updates hides too little: secure aggregation takes "
                f"{FEWEST_SECURE_SITES} --clients or more; with fewer, say --aggregation plain"
            )
        if private:
            if self.dp_epsilon is None or self.dp_delta is None:
                raise UserError("differential privacy takes both --dp-epsilon and --dp-delta")
            if not self.dp_epsilon > 0 or not 0 < self.dp_delta < 1:
                raise UserError("--dp-epsilon must be above 0 and --dp-delta between 0 and 1")
            if self.share_metrics:
                raise UserError("--share-metrics tells in clear what the noise of --dp-epsilon hides: choose one")

    def resolved_recipe(self) -> Recipe:
        """Return the recipe with this study's changes. Raises UserError for a value that cannot be."""
        base = choose_recipe(self.recipe).network
        network = replace(
            base,
            activation=self.activation or base.activation,  # type: ignore[arg-type]
            dropout=base.dropout if self.dropout is None else self.dropout,
        )
        return choose_recipe(
            self.recipe,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            batch_size=self.batch_size,
            clip_norm=self.clip_norm,
            network=network,
        )

    def federated_recipe(self) -> Recipe:
        """Return the recipe that sites train by: the study's own, with FedProx's term where it has one.

        Models trained alone have no global model to stay near, so they keep ``resolved_recipe``.
        """
        recipe = self.resolved_recipe()
        if self.local_objective == "plain":
            return recipe
        return replace(recipe, proximal=_PROXIMAL_MU if self.proximal_mu is None else self.proximal_mu)

    def server_step(self) -> ServerStep:
        """Return the server's optimiser with its parameters; without momentum, ``avgm`` is ``avg``."""
        if self.server_optimiser in ("adam", "yogi"):
            rate = _SERVER_LEARNING_RATE if self.server_learning_rate is None else self.server_learning_rate
            return ServerStep(self.server_optimiser, learning_rate=rate)
        momentum = _MOMENTUM if self.server_momentum is None else self.server_momentum
        if self.server_optimiser == "avg" or not momentum:
            return ServerStep("avg")
        return ServerStep("avgm", momentum=momentum)

    def asked_sites(self, sites: int) -> int:
        """Return how many of the study's sites a round asks: the share that participates, rounded up."""
        return max(1, math.ceil(self.participation * sites - 1e-9))

    def needed_sites(self, sites: int) -> int:
        """Return how many of the study's sites must answer a round.

        That is ``min_sites``, else more than half of those asked; a secure sum is never of fewer than three, nor,
        unless ``min_sites`` says so, than four fifths of all.
        """
        if self.aggregation == "plain":
            return self.asked_sites(sites) // 2 + 1 if self.min_sites is None else self.min_sites
        if self.min_sites is None:
            return max(FEWEST_SECURE_SITES, math.ceil(0.8 * sites))
        return max(FEWEST_SECURE_SITES, self.min_sites)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def make_settings(*layers: Mapping[str, Any]) -> StudySettings:
    """Make settings of layers, the first that names an option deciding it, defaults last.

    Raises UserError for an unknown option or a value of the wrong type.
    """
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        for key, value in layer.items():
            merged[_known(key)] = value
    return StudySettings(**{key: _typed(key, value) for key, value in merged.items()})


def read_config_file(path: Path) -> dict[str, Any]:
    """Read options from a TOML file: the command line's names, ``-`` or ``_`` alike.

    Raises UserError for a file that is not there or not TOML, an unknown key or a value of the wrong type.
    """
    try:
        with path.open("rb") as file:
            table = tomllib.load(file)
    except FileNotFoundError:
        raise UserError(f"--config {path}: no such file") from None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: {error}") from None
    try:
        # Types alone: what goes together is known when the command line has been heard too.
        values = {name: _typed(name, value) for name, value in ((_known(key), table[key]) for key in table)}
    except UserError as error:
        raise UserError(f"--config {path}: {error}") from None
    return values


def differences(saved: StudySettings, given: Mapping[str, Any]) -> list[str]:
    """Return what was given now and is not as it was saved, as ``--option now (was)`` texts."""
    texts = []
    for key, value in given.items():
        was = getattr(saved, _known(key))
        if _typed(key, value) != was:
            texts.append(f"--{key.replace('_', '-')} {value} (was {was})")
    return texts


_HINTS = get_type_hints(StudySettings)
_NAMES = tuple(field.name for field in fields(StudySettings))


def _known(key: str) -> str:
    name = key.replace("-", "_")
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, 1)
        hint = f"did you mean {near[0].replace('_', '-')!r}?" if near else "see --help for the options"
        raise UserError(f"unknown option {key!r}; {hint}")
    return name


def _typed(key: str, value: Any) -> Any:
    wanted = _HINTS[key]
    choices = get_args(wanted) if isinstance(wanted, UnionType) else (wanted,)
    if value is None and type(None) in choices:
        return None
    if wanted == tuple[str, ...]:
        items = [value] if isinstance(value, str | Path) else value
        if isinstance(items, list | tuple) and all(isinstance(item, str | Path) for item in items):
            return tuple(str(item) for item in items)
    elif float in choices and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    elif type(value) in choices:
        return value
    names = [getattr(choice, "__name__", str(choice)) for choice in choices if choice is not type(None)]
    raise UserError(f"option {key.replace('_', '-')!r} takes {' or '.join(names)}, got {value!r}")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"--{name} must be {least} or more, got {value}")


def _one_of(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"--{name} is one of {', '.join(choices)}, got {value!r}")


def _share(part: int, whole: int) -> str:
    """Return a share, in hundredths, that is this part of the whole or a little more."""
    return f"{math.ceil(100 * part / whole) / 100:g}"
