"""How good frozen features are. All maths on plain tensors; where they come from is the caller's.

metrics.py   without labels: have the features collapsed?
knn.py       with labels: do near neighbours share a class?
linear.py    with labels: does a hyperplane separate the classes?
"""

from headrace.evaluate.knn import knn_accuracy, knn_accuracy_left_one_out
from headrace.evaluate.linear import LinearProbe, fit_linear_probe, linear_probe_accuracy
from headrace.evaluate.metrics import feature_std, rankme

__all__ = [
    "LinearProbe",
    "feature_std",
    "fit_linear_probe",
    "knn_accuracy",
    "knn_accuracy_left_one_out",
    "linear_probe_accuracy",
    "rankme",
]
