"""A U-Net that sees a block of houses at once: it tells ground from walls and shadows in images of a city."""

from sn9reg.matchers.dense.networks.slim_unet import SlimUNet


class WideUNet(SlimUNet):
    """(B, in_channels, H, W) -> (B, features, H, W) features of the length that a pixel counts. Ours: `SlimUNet` with
    levels down to 1/32. A shadow or a wall that lies over a street is known by its whole outline, which is 20 to 60 m
    long; a network that sees 24 px far takes it for the edge of a road. Made for pixels of `PIXELS` metres."""

    margin = 48  # it sees about 110 px far, but features are those of a larger patch, nearly, from here on
    PIXELS = 0.6, 1.6  # smallest and largest, metres

    def __init__(
        self, in_channels: int = 1, widths: tuple[int, ...] = (16, 24, 32, 48, 64), weighted: bool = True,
        features: int = 6, fold: int = 2,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, widths, weighted, features, fold)
