"""The descriptor of He et al., MobileNetV2 with a dense fusion by coordinate attention at its end; a smaller backbone
and a stem for each modality, beyond the paper; weights files."""

import itertools
import textwrap
from collections.abc import Mapping
from dataclasses import asdict, field
from itertools import pairwise
from typing import Annotated, Any, Literal

import scipy.linalg
import timm
import torch
from annotated_types import Ge
from timm.layers.coord_attn import CoordAttn
from timm.models import adapt_input_conv
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, normalize

from sn9reg.errors import ConfigError
from sn9reg.matchers.dense import weights as dense
from sn9reg.matchers.dense.networks.branches import Branches
from sn9reg.matchers.descriptors.patches import PatchLayout, input_maps
from sn9reg.options import check, options
from sn9reg.raster.files import PathLike
from sn9reg.raster.radiometry import Modality
from sn9reg.weights import store

KIND = "patch descriptor"
_WIDTHS = {0.35: "mobilenetv2_035", 0.5: "mobilenetv2_050", 0.75: "mobilenetv2_075", 1.0: "mobilenetv2_100"}
_STRIDES = {"mobilenet": 32, "hardnet": 4}  # of all layers together
_HARDNET = (32, 32, 64, 64, 128, 128)  # channels of its layers; the third and the fifth halve the sides
_QUIET = 0.005  # what the network starts with beside the layout of the patch
_SHRINKAGE = 3.0  # of the scatter within places towards one number, as so many times its mean


@options
class FusionOptions:
    """Options of `DenseFusion`."""

    backbone: Literal["mobilenet", "hardnet"] = "mobilenet"  # the paper's, or one for small patches
    width: float = 1.0  # of the backbone, 1 in the paper
    attention: bool = True  # without it, the network of the ablation (section 3.3)
    descriptor: Annotated[int, Ge(1)] = 256  # its length
    # Beyond the paper, means of cells x cells cells are added by a linear layer, which `fit_layout` can start well.
    cells: Annotated[int, Ge(0)] = 0

    def __post_init__(self) -> None:
        if self.width not in _WIDTHS:
            raise ConfigError(f"width is {self.width}, not one of {', '.join(map(str, _WIDTHS))}")


@options
class DescriptorOptions:
    """What a weights file says of its descriptor."""

    patch: PatchLayout  # what the descriptor sees
    network: dict[str, Any] = field(default_factory=dict)  # `FusionOptions`
    stem: dense.DenseOptions | None = None  # the network whose features a patch shows beside the energies


class DenseFusion(nn.Module):
    """(N, in_channels, side, side) patches -> (N, descriptor) descriptors of length 1. He et al., "Deep convolutional
    network based on attention mechanism for matching optical and SAR images", table 1 and figure 3: MobileNetV2 as far
    as its 320 channels, coordinate attention, a convolution as large as the map that is left, batch normalisation.
    Beyond the paper, the layers of HardNet (A. Mishchuk et al., "Working hard to know your neighbor's margins", 2017,
    figure 2) in MobileNetV2's place. stems: make of whole images the features that patches show; their weights stay.
    Raises ConfigError for a side that is no multiple of the stride, or less than `cells`."""

    def __init__(self, in_channels: int, side: int, given: FusionOptions, stems: Branches | None = None) -> None:
        super().__init__()
        self.stem: nn.Conv2d
        stride = _STRIDES[given.backbone]
        if given.cells > side:
            raise ConfigError(f"cells is {given.cells}, more than the {side} px of a patch")
        if side % stride:
            raise ConfigError(f"side is {side}, must be a multiple of {stride}")
        self.stems = None if stems is None else stems.requires_grad_(False)
        if given.backbone == "hardnet":
            self.stem, self.norm, self.blocks, channels = _hardnet(in_channels, given.width)
        else:
            backbone: Any = timm.create_model(_WIDTHS[given.width], pretrained=False, in_chans=in_channels)
            self.stem, self.norm, self.blocks = backbone.conv_stem, backbone.bn1, backbone.blocks
            channels = int(backbone.blocks[-1][-1].conv_pwl.out_channels)
        self.attention = CoordAttn(channels) if given.attention else nn.Identity()
        self.fusion = nn.Conv2d(channels, given.descriptor, side // stride, bias=False)
        self.fusion_norm = nn.BatchNorm2d(given.descriptor)
        self.descriptor, self.cells = given.descriptor, given.cells
        if self.cells:
            self.layout = nn.Linear(in_channels * self.cells**2, self.descriptor)
            nn.init.constant_(self.fusion_norm.weight, _QUIET)

    def forward(self, patches: Tensor) -> Tensor:
        features = self.attention(self.blocks(self.norm(self.stem(patches))))
        described = self.fusion_norm(self.fusion(features)).flatten(1).float()
        if self.cells:
            described = described + self.layout(self.cell_means(patches)).float()
        return normalize(described, dim=1)

    def cell_means(self, patches: Tensor) -> Tensor:
        """(N, in_channels * cells ** 2) means of the cells of each patch, less those of the patch, of length 1."""
        means = adaptive_avg_pool2d(patches - patches.mean(dim=(2, 3), keepdim=True), self.cells)
        return normalize(means.flatten(1).float(), dim=1)

    def fit_layout(self, optical: Tensor, sar: Tensor) -> None:
        """Begin with the directions in which `cell_means` (N, F) of patches differ most from place to place, against
        how much those of the optical and the SAR patch of one place differ (Fisher's linear discriminant)."""
        one, other = optical.double(), sar.double()
        middle = (one + other).mean(dim=0) / 2
        between, within = (one + other) / 2 - middle, one - other
        noise = within.T @ within / len(within)
        noise += (_SHRINKAGE * noise.diagonal().mean() + 1e-9) * torch.eye(len(noise), dtype=noise.dtype)
        _, directions = scipy.linalg.eigh((between.T @ between / len(between)).numpy(), noise.numpy())
        weight = torch.from_numpy(directions[:, ::-1][:, : self.descriptor].T.copy())
        weight /= (between @ weight.T).norm(dim=1).mean().clamp_min(1e-9)
        with torch.no_grad():
            for parameter, values in ((self.layout.weight, weight), (self.layout.bias, -(weight @ middle))):
                parameter.zero_()
                parameter[: len(weight)] = values.float()

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Take over the backbone of a timm MobileNetV2, e.g. one trained on ImageNet (the paper's transfer learning).
        Its classifier is left out, its first layer fitted to the channels. Raises ConfigError for other weights."""
        known = {"conv_stem": "stem", "bn1": "norm", "blocks": "blocks"}
        parts = ((*key.partition("."), value) for key, value in state.items())
        own = {f"{known[first]}.{rest}": value for first, _, rest, value in parts if first in known}
        try:
            own["stem.weight"] = adapt_input_conv(self.stem.in_channels, own["stem.weight"])
            missing, _ = self.load_state_dict(own, strict=False)
        except (KeyError, RuntimeError, NotImplementedError) as error:
            why = textwrap.shorten(str(error), 120, placeholder=" ...")
            raise ConfigError(f"these are no weights of a MobileNetV2 of this width ({why})") from error
        if lacking := [name for name in missing if name.split(".")[0] in known.values()]:
            raise ConfigError(f"these weights lack {lacking[0]} of a MobileNetV2")


def seen(grey: Tensor, patch: PatchLayout, stems: Branches | None, modality: Modality) -> Tensor:
    """(B, H, W) standardised images of one modality -> (B, C, H, W), of which patches of this layout are cut."""
    if stems is None:
        return input_maps(grey, patch)
    with torch.no_grad():
        return input_maps(grey, patch, stems(grey[:, None], modality))


def _hardnet(in_channels: int, width: float) -> tuple[nn.Conv2d, nn.Module, nn.Module, int]:
    """The first layer, its normalisation, all other layers, and how many channels they make."""
    widths = [in_channels, *(max(8, round(width * channels)) for channels in _HARDNET)]
    strides = (1, 1, 2, 1, 2, 1)
    convolutions = [
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        for (before, after), stride in zip(pairwise(widths), strides, strict=True)
    ]
    first, *norms = (nn.Sequential(nn.BatchNorm2d(n), nn.ReLU(inplace=True)) for n in widths[1:])
    rest = itertools.chain.from_iterable(zip(convolutions[1:], norms, strict=True))
    return convolutions[0], first, nn.Sequential(*rest), widths[-1]


def build(given: Mapping[str, Any]) -> DenseFusion:
    """The network of these `DescriptorOptions`, with new weights. Raises ConfigError for what there is not."""
    made = check(DescriptorOptions, given, KIND)
    stems = None if made.stem is None else dense.build(asdict(made.stem)).eval()
    if (features := _features(stems)) != made.patch.features:
        raise ConfigError(f"patch.features is {made.patch.features}, and the stem makes {features}")
    return DenseFusion(made.patch.channels, made.patch.side, check(FusionOptions, made.network, KIND), stems)


def _features(stems: Branches | None) -> int:
    """How many features stems make."""
    if stems is None:
        return 0
    with torch.no_grad():
        return int(stems(torch.zeros(1, 1, 64, 64), "optical").shape[1])


def load_descriptor(path: PathLike | None = None) -> tuple[DenseFusion, DescriptorOptions]:
    """The descriptor in a file, or the one that ships. Raises InputError as `store.load` and `store.shipped`."""
    network, given = store.shipped("descriptors", KIND, build) if path is None else store.load(path, KIND, build)
    return network, check(DescriptorOptions, given, KIND)


def distances(one: Tensor, other: Tensor) -> Tensor:
    """(N, D), (M, D) descriptors of length 1 -> (N, M) distances D = sqrt(2 - 2 o.s) (He et al., section 2.3)."""
    return torch.sqrt((2 - 2 * one @ other.T).clamp_min(1e-6))
