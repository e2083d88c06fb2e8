"""H-JEPA: learning what images and frames hold by predicting hidden parts of them in feature space.

This is the hierarchy's level 0, which alone is I-JEPA (Assran et al., arXiv 2301.08243).

    config.py     the settings, and what builds the model
    masks.py      which patches the context sees, and which are to be predicted
    predictor.py  context tokens + places -> what the target encoder would say there
    objective.py  the loss, the moving target, the features
"""

from headrace.models.hjepa.config import HJepaConfig

__all__ = ["HJepaConfig"]
