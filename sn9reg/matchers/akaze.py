"""AKAZE: P. Alcantarilla, J. Nuevo, A. Bartoli, "Fast explicit diffusion for accelerated features in nonlinear scale
spaces", 2013, as OpenCV has it."""

from typing import Any

import cv2

from sn9reg.errors import ConfigError
from sn9reg.matchers.descriptors.classical import ClassicalMatcher


class AkazeMatcher(ClassicalMatcher):
    """AKAZE keypoints, without training: a rival from photography, with binary descriptors.

    Raises ConfigError where OpenCV is installed without them."""

    name = "akaze"

    def detector(self) -> Any:
        places: Any = (cv2, getattr(cv2, "xfeatures2d", None))  # before and since OpenCV 5
        for place in places:
            if create := getattr(place, "AKAZE_create", None):
                return create(threshold=5e-4)
        raise ConfigError("matcher 'akaze': opencv-python has no AKAZE; install opencv-contrib-python in its place")
