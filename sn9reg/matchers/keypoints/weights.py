"""Weights files of keypoint detectors."""

from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any

from sn9reg.errors import InputError
from sn9reg.matchers.keypoints.network import HeatmapUNet
from sn9reg.options import check, check_call, options
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.weights import store

KIND = "keypoint detector"


@options
class DetectorOptions:
    """What a weights file says of its detector."""

    finds: Modality  # that it finds keypoints in
    options: dict[str, Any] = field(default_factory=dict)  # the others of `HeatmapUNet`


def build(given: Mapping[str, Any]) -> HeatmapUNet:
    """The network of these `DetectorOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DetectorOptions, given, KIND)
    check_call(HeatmapUNet, made.options, KIND, besides=("finds",))
    return HeatmapUNet(made.finds, **made.options)


def save_detector(path: PathLike, network: HeatmapUNet, options: DetectorOptions) -> None:
    """Write a weights file. Raises OutputError where it cannot be written."""
    store.save(path, network, KIND, asdict(options))


def load_detector(finds: Modality, path: PathLike | None = None) -> HeatmapUNet:
    """The detector of that modality's keypoints in a file, or the one that ships. Raises InputError as `store.load`,
    for a detector of the other modality, and where none ships."""
    if path is None:
        recipe, option = f"keypoints.yaml --set finds={finds}", f"{finds}_weights"
        return store.shipped(f"keypoints-{finds}", KIND, build, recipe, option)[0]
    network, _ = store.load(path, KIND, build)
    if network.finds != finds:
        raise InputError(f"{path}: holds a detector of {network.finds} keypoints, not of {finds} ones")
    return network
