"""A small convolutional network for small images."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from wellposed.core.checks import Count, Within, checked


@checked
class ConvNet(nn.Module):
    """``depth`` blocks of convolution, batch norm, ReLU and pooling, widths doubling; a hidden layer; a head.

    Pixels are first centered by ``mean`` and divided by ``std``, two buffers with one number a channel.

    Args:
        channels: >= 1, of an image.
        outputs: >= 1.
        width: >= 1, channels of the first block.
        depth: in 1..4, blocks; each halves height and width.
        hidden: >= 1, units of the layer before the head.
        dropout: in [0, 1), before the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        channels: Count,
        outputs: Count,
        width: Count = 16,
        depth: Annotated[int, Within(1, 4)] = 3,
        hidden: Count = 128,
        dropout: Annotated[float, Within(0, 1, open="high")] = 0.0,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        size = channels
        for block in range(depth):
            wider = width * 2**block
            # ceil_mode: a side of 1 stays 1 instead of vanishing.
            pool = nn.MaxPool2d(2, ceil_mode=True)
            blocks += [nn.Conv2d(size, wider, 3, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU(), pool]
            size = wider
        self.features = nn.Sequential(*blocks)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(4 * size, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, outputs)
        # Channels last is the layout in which convolutions of few channels are fastest, two to one on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        """``(n, channels, height, width) -> (n, outputs)``; bytes or floating numbers, in the units of ``mean``."""
        x = (x.to(self.mean.dtype) - self.mean[:, None, None]) / self.std[:, None, None]
        x = x.contiguous(memory_format=torch.channels_last)
        scores: Tensor = self.head(self.hidden(self.pool(self.features(x))))
        return scores
