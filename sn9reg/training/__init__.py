"""Training: data, losses and tasks. Imported by nothing but `pipelines/` and `cli/train.py`."""
