"""Search spaces of `ray.tune`, one file per model family."""
