"""What ends a run for good, and what is only another start."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ray.exceptions import ActorDiedError
from ray.train import ControllerError

from headrace.cluster.trainer import fit


class Fits:
    """Stands in for a trainer; each fit ends as it is told, the last ones well."""

    def __init__(self, *errors: Exception) -> None:
        self.errors, self.built = list(errors), 0

    def build(self) -> Fits:
        self.built += 1
        return self

    def fit(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


def lost() -> Exception:
    return ControllerError(ActorDiedError())


@pytest.mark.parametrize(("errors", "starts"), [([], 1), ([lost], 2), ([lost, lost, lost], 4)])
def test_a_worker_lost_at_the_start_is_another_start(errors: list[Callable[[], Exception]], starts: int) -> None:
    fits = Fits(*(error() for error in errors))
    fit(fits.build, restarts=3)  # type: ignore[arg-type]
    assert fits.built == starts


@pytest.mark.parametrize(
    ("errors", "starts"),
    [([lost, lost], 2), ([lambda: ControllerError(ValueError("no"))], 1), ([lambda: OSError()], 1)],
)
def test_the_last_start_and_other_errors_end_the_run(errors: list[Callable[[], Exception]], starts: int) -> None:
    fits = Fits(*(error() for error in errors))
    with pytest.raises((ControllerError, OSError)):
        fit(fits.build, restarts=1)  # type: ignore[arg-type]
    assert fits.built == starts
