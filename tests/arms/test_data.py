"""Which partition a study has when its user names none."""

import pandas as pd
import pytest

from nescient_fl.arms.data import usual_partition


def cohort(views: str, devices: str) -> pd.DataFrame:
    return pd.DataFrame({"view": views.split(), "devices": [mark == "1" for mark in devices.split()]})


@pytest.mark.parametrize(
    ("table", "clients", "expected"),
    [
        (cohort("AP AP PA", "1 0 0"), 3, "setting"),
        (cohort("AP AP PA", "1 0 0"), 2, "dirichlet"),  # fewer sites than settings
        (cohort("AP AP PA", "0 0 0"), 3, "dirichlet"),  # devices are not recorded
        (cohort("AP AP AP", "1 0 0"), 3, "dirichlet"),  # no outpatients
    ],
)
def test_the_settings_are_sites_where_the_data_tell_them_apart(
    table: pd.DataFrame, clients: int, expected: str
) -> None:
    assert usual_partition(table, clients) == expected
