"""uint8 -> float, on the training device. The only place where that happens."""

from headrace.augment.augment import Augment, AugmentConfig

__all__ = ["Augment", "AugmentConfig"]
