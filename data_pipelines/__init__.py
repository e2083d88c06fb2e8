"""Every Ray Data pipeline, each one short composition that reads as it runs."""
