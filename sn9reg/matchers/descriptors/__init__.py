"""Sparse keypoints: corners of phase congruency, what describes them, and nearest neighbours."""
