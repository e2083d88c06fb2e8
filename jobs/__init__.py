"""Entry points: `python jobs/train.py`, `jobs/index.py`, `jobs/pack.py`, `jobs/evaluate.py`."""
