"""Trained weights: safetensors files, and manifest.json, which says of each what it is and where it comes from."""
