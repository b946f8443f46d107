"""A finished run's own record of what left its sites: was anything of a site's training in clear?"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from nescient_fl.attacks.evidence import Finding, Trial
from nescient_fl.sealed_messages import SEALED, SHARED
from nescient_fl.study.run_folder import RunFolder, read_json, read_lines

_SEALED_KINDS = {"sealed update", "sealed scores"}


def _sealed(line: Mapping[str, Any]) -> bool:
    return line["kind"] in _SEALED_KINDS and set(line["records"]) <= {SEALED, SHARED}


def read_departures(run: RunFolder) -> Iterator[Finding]:
    """Yield what a run's transcript shows; nothing for a run that kept none."""
    lines = read_lines(run.transcript)
    if not lines:
        return
    allowed = set(read_json(run.config)["settings"].get("share_metrics", []))
    kinds = Counter(str(line["kind"]) for line in lines)
    clear = [line for line in lines if line["kind"] != "name" and not _sealed(line)]
    shared = Counter(str(line["site"]) for line in lines if SHARED in line["records"])
    unasked = sorted(site for site in shared if "all" not in allowed and site not in allowed)
    counted = ", ".join(f"{number:,} {kind}" for kind, number in sorted(kinds.items()))
    yield Finding(
        key="transcript",
        title="Read what left the sites",
        saw="The run's own transcript: every message that left a site, by kind.",
        plain=None,
        secure=Trial(
            bool(clear or unasked),
            f"{len(clear)} of {len(lines):,} messages in clear",
            f"{counted}; {len(clear)} in clear, figures shared by {', '.join(sorted(shared)) or 'no site'}.",
            {"kinds": dict(kinds), "in_clear": len(clear), "shared": dict(shared), "shared_unasked": unasked},
        ),
    )
