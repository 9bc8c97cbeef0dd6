"""SIFT: D. Lowe, "Distinctive image features from scale-invariant keypoints", 2004, as OpenCV has it."""

from typing import Any

import cv2

from sn9reg.matchers.descriptors.classical import ClassicalMatcher


class SiftMatcher(ClassicalMatcher):
    """SIFT keypoints, without training: a rival from photography, which speckle and reversed contrast mislead."""

    name = "sift"

    def detector(self) -> Any:
        return cv2.SIFT_create(contrastThreshold=0.02)  # type: ignore[attr-defined]
