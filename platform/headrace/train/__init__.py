"""The training engine: feed, step, loop, checkpoint. Knows a batch and an Objective; no model, no Ray."""
