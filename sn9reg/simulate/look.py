"""From where both images are taken, and where the sun stands."""

from dataclasses import dataclass

import numpy as np

from sn9reg.raster.grid import Points
from sn9reg.simulate.field import RANGE, TAN_INCIDENCE


@dataclass(frozen=True)
class Look:
    """Directions are unit vectors in map axes."""

    sun: Points  # (2,) towards the sun
    sun_slope: float  # tangent of its elevation
    lean: Points  # (2,) metres by which a metre of height is moved in the optical image: away from the sensor
    haze: float  # share of the light that comes from the air, 0 to 1
    towards_sensor: Points  # (2,) towards the SAR sensor
    tan_incidence: float  # of its rays


# As over SpaceNet 9's area 02, from straight above.
PLAIN = Look(np.array([0.55, -0.835]), 1 / 0.75, np.zeros(2), 0.0, RANGE, TAN_INCIDENCE)


def any_look(seed: int) -> Look:
    """Sun, optical view and SAR view from anywhere, independent of one another."""
    random = np.random.default_rng([seed, 8])
    sun, view, sensor = (np.array([np.cos(a), np.sin(a)]) for a in random.uniform(0, 2 * np.pi, 3))
    elevation, away, incidence = np.radians([random.uniform(28, 68), random.uniform(2, 30), random.uniform(22, 50)])
    if sun[1] > 0.3:  # it stands in the south, mostly
        sun = sun * [1, -1]
    return Look(sun, np.tan(elevation), view * np.tan(away), random.uniform(0, 0.25), sensor, float(np.tan(incidence)))
