"""Random views of a batch for training: what a picture may look like without changing its label."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels: Tensor, generator: torch.Generator, *, upright: bool) -> Tensor:
    """float (N, 3, side, side) in 0..1 -> the same shape. `upright`: the pictures have a top, so only mirror them."""
    views = mirror(pixels, generator) if upright else turn(pixels, generator)
    return recolour(warp(views, generator), generator)


def mirror(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Left to right, every other picture."""
    chosen = _coin(len(pixels), generator)
    return torch.where(chosen, pixels.flip(3), pixels)


def turn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """One of the eight symmetries of the square: satellites have no up. Exact: no pixel is interpolated."""
    for view in (lambda x: x.flip(3), lambda x: x.flip(2), lambda x: x.transpose(2, 3)):
        pixels = torch.where(_coin(len(pixels), generator), view(pixels), pixels)
    return pixels


def warp(pixels: Tensor, generator: torch.Generator, *, share: float = 0.5, scale: float = 0.15, shift: float = 0.1,
         angle: float = 0.25) -> Tensor:
    """Zoom by up to `scale`, move by up to `shift` of a side and turn by up to `angle` radians a `share` of the batch."""
    n = max(int(len(pixels) * share), 1)
    chosen = torch.randperm(len(pixels), generator=generator)[:n]
    zoom = 1 + scale * _signed(n, generator)
    radians = angle * _signed(n, generator)
    cos, sin = radians.cos() * zoom, radians.sin() * zoom
    move = 2 * shift * _signed(2 * n, generator).reshape(2, n)  # grid coordinates span 2 per side
    theta = torch.stack([torch.stack([cos, -sin, move[0]], 1), torch.stack([sin, cos, move[1]], 1)], 1)
    part = pixels[chosen]
    grid = F.affine_grid(theta, list(part.shape), align_corners=False)
    pixels = pixels.clone()
    pixels[chosen] = F.grid_sample(part, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return pixels


def recolour(pixels: Tensor, generator: torch.Generator, *, gain: float = 0.1, offset: float = 0.03) -> Tensor:
    """Brighter or darker, as a whole and a little per channel: light and haze differ from scene to scene."""
    n = len(pixels)
    gains = 1 + gain * _signed(n, generator).reshape(n, 1, 1, 1) + offset * _signed(3 * n, generator).reshape(n, 3, 1, 1)
    return (pixels * gains + offset * _signed(n, generator).reshape(n, 1, 1, 1)).clamp(0, 1)


def _coin(n: int, generator: torch.Generator) -> Tensor:
    return (torch.rand(n, generator=generator) < 0.5).reshape(n, 1, 1, 1)


def _signed(n: int, generator: torch.Generator) -> Tensor:
    return torch.rand(n, generator=generator) * 2 - 1
