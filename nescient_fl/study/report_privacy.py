"""The report's privacy section: what left the sites, who could see what, and what it cost."""

from collections.abc import Mapping
from typing import Any

from nescient_fl.study.report_tables import Table
from nescient_fl.study.report_values import MISSING, count, fixed, real, section


def secure_table(metrics: Mapping[str, Any]) -> Table | None:
    """Return what secure aggregation was and cost in this run; None when updates went in clear."""
    secure = metrics.get("secure")
    if not isinstance(secure, Mapping) or not secure:
        return None
    rows = [
        ["Compute parties, of which one must be honest", count(secure.get("parties"))],
        ["Fewest sites in an opened sum", count(secure.get("minimum_sites"))],
        ["Largest norm of a site's update", fixed(secure.get("clip"), 2)],
        ["Left out by the norm check, over all rounds", count(secure.get("excluded"))],
        ["Attempts that opened no sum and were made again", count(secure.get("aborted"))],
        ["Sealed bytes a site and round", count(secure.get("bytes_per_site_round"))],
        ["A site's time to clip, share, seal and sign", _milliseconds(secure.get("site_seconds"))],
        ["A party's time a round, waiting included", _milliseconds(secure.get("party_seconds"))],
        ["Largest difference of a weight from plain FedAvg", _small(secure.get("max_abs_error"))],
        ["Sites that shared their own figures in clear", _names(secure.get("shared_metrics"))],
    ]
    if real(secure.get("epsilon")) is not None:
        rows += [
            ["Differential privacy, epsilon spent", fixed(secure.get("epsilon"), 3)],
            ["Differential privacy, delta", _small(secure.get("delta"))],
            ["Noise multiplier", fixed(secure.get("noise_multiplier"), 3)],
        ]
    return Table("Secure aggregation", ["What", "Value"], rows)


def secure_sentences(metrics: Mapping[str, Any]) -> str:
    """Say in words who saw what of the federated arm."""
    secure = metrics.get("secure")
    if not isinstance(secure, Mapping) or not secure:
        plain = section(metrics, "federation").get("aggregation") == "plain"
        return "The coordinator saw every site's update and figures: aggregation was plain." if plain else ""
    said = (
        "Each site split its update into random shares and sealed one for each compute party. The coordinator "
        "passed on what it could not read; the parties together opened the sum over all sites of a round, and "
        "nothing of a single site. The sum itself is not secret, and neither is the model."
    )
    if real(secure.get("epsilon")) is None:
        return said + " Without noise, the sums of many rounds may still tell something about a site."
    return said + (
        " Noise in each sum bounds what all of them together can tell about any one site: epsilon and delta hold"
        " between this run and one in which a site's reports are zeros. With few sites, little is learned."
    )


def _milliseconds(seconds: object) -> str:
    value = real(seconds)
    return MISSING if value is None else f"{fixed(value * 1000, 1)} ms"


def _small(value: object) -> str:
    number = real(value)
    return MISSING if number is None else f"{number:.1e}"


def _names(value: object) -> str:
    return ", ".join(str(name) for name in value) if isinstance(value, list) and value else "none"
