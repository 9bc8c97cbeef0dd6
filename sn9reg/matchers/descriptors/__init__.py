"""Sparse keypoints: corners of phase congruency, what describes them, nearest neighbours, and the pose of a pair."""
