"""A plain install gives a torch and a torchvision that work together, and what later networks stand on."""

import importlib

import pytest


@pytest.mark.parametrize("name", ["torchvision", "timm", "segmentation_models_pytorch", "kornia", "safetensors.torch"])
def test_imports(name):
    assert importlib.import_module(name)
