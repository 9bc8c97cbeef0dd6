"""Keypoints by heatmap: tiles of a pair, and what is read off a detector's answer."""
