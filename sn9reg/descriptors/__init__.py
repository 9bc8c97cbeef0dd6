"""Sparse keypoints and what describes them: corners of phase congruency, patches around them, descriptors, neighbours."""
