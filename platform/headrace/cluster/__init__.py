"""Ray's side of the house: the stream's order on Ray Data, the workers on Ray Train. The only rooms that know Ray.

Ray reads its environment when it is imported, so what headrace wants of it is set here, before anything else.
"""

from __future__ import annotations

import os

EMBEDDED = "HEADRACE_EMBEDDED_RAY"
"""Set in the environment of all processes of an embedded cluster without a dashboard, so that its workers know."""

ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # what a later Ray will do; unset, it warns at each start
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",  # headrace has one display of its own
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # events of the cluster stay in Ray's logs and dashboard
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": "600",  # a worker that compiles its model is not dead
}


def prepare_ray() -> None:
    """Set what headrace wants of Ray's environment; what the user has set stays. Call before importing ray."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


prepare_ray()
if EMBEDDED in os.environ:  # see `headrace.cluster.embedded`, which most processes need not load
    from headrace.cluster.embedded import stand_in_if_worker

    stand_in_if_worker()
