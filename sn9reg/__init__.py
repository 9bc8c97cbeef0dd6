"""Dense registration of optical to SAR satellite images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sn9reg.errors import ConfigError, InputError, NotRegisteredError, OutputError, Sn9regError
from sn9reg.matchers import DEFAULT_MATCHER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from typing_extensions import Unpack

    from sn9reg.matchers.base import Matcher
    from sn9reg.raster.files import PathLike
    from sn9reg.raster.scene import Reading
    from sn9reg.registration import Registration

__all__ = ["ConfigError", "InputError", "NotRegisteredError", "OutputError", "Sn9regError", "register"]


def register(
    optical: PathLike,
    sar: PathLike,
    *,
    matcher: str | Matcher = DEFAULT_MATCHER,
    matcher_options: Mapping[str, Any] | None = None,
    model: str = "auto",
    threshold: float | None = None,
    ratio_filter: bool = False,
    dem: PathLike | None = None,
    calibration: PathLike | None = None,
    device: str = "auto",
    **reading: Unpack[Reading],
) -> Registration:
    """Register an optical to a SAR image. The result says itself whether the pair was registered.

    matcher: a name or an object. matcher_options: keyword arguments of its constructor.
    model: auto, translation, affine, homography or local. threshold: of RANSAC, metres.
    ratio_filter: keep only the matches that pass the adaptive-ratio filter; about half do.
    dem: a raster of heights of the ground, in any CRS: displacement along range is proportional to them. It is used
    where matches held out are then predicted better.
    calibration: a file of `pipelines.calibrate` for the matcher; by default the one that ships. Where none does, a
    warning says so, and scores and sigma stay those of the matcher.
    device: what to compute on: cpu, cuda or cuda:N; auto takes a GPU if there is one.
    reading: pixel_frame, optical_bands, sar_bands, optical_nodata, sar_nodata, keep_collar: see `raster.scene`.

    Raises InputError for files that cannot be used, ConfigError for options that make no sense.
    """
    # The registration brings torch, which takes seconds to load: only those who use it wait for it.
    from sn9reg.raster.scene import PairFiles
    from sn9reg.registration import register as register_files

    return register_files(
        PairFiles(optical, sar, **reading),
        matcher=matcher,
        matcher_options=matcher_options,
        model=model,
        threshold=threshold,
        ratio_filter=ratio_filter,
        dem=dem,
        calibration=calibration,
        device=device,
    )
