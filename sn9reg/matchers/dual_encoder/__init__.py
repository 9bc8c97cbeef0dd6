"""Cells of two feature maps: what they are computed from, and which belong together.

P. Huang et al., "Uncertainty-aware self-supervised cross-modal SAR-optical matching using EfficientDet and Xception".
"""
