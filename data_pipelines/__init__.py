"""Every Ray Data pipeline, each one short composition that reads as it runs."""

from headrace.cluster import prepare_ray

prepare_ray()
