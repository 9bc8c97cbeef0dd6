"""Training: data, losses and tasks. Imported by `pipelines/` alone."""
