"""Cells of two feature maps: what they are computed from, and which belong together."""
