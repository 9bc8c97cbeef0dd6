"""A scene that never was, for demonstrations, tests and training: optical and SAR image, tie-points, exact offsets."""

from sn9reg.simulate.scene import Scene, SimulatedScene, make_scene, simulate

__all__ = ["Scene", "SimulatedScene", "make_scene", "simulate"]
