"""Benchmarks read the same real photographs as the tests."""

from __future__ import annotations

from shared_data import cifar10, imagenet_samples, text_pools

__all__ = ["cifar10", "imagenet_samples", "text_pools"]
