"""A U-Net with dice loss: images and masks of noisy discs, batches as mappings; ``forward=`` and ``target=`` say what is what.

Run: python examples/own_loop_unet.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

import wellposed as wp


class UNet(nn.Module):
    """Two levels: what goes down is joined, on the way up, with what was there before."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Module:
            return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())

        self.down, self.bottom = block(1, width), block(width, 2 * width)
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.join, self.head = block(2 * width, width), nn.Conv2d(width, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = self.down(x)
        raised = self.up(self.bottom(F.max_pool2d(skipped, 2)))
        return self.head(self.join(torch.cat([skipped, raised], 1)))


def dice(scores: Tensor, mask: Tensor) -> Tensor:
    """One value for each image: 0 where mask and prediction are the same, 1 where they share nothing."""
    guess = scores.sigmoid()
    shared = (guess * mask).flatten(1).sum(1)
    return 1 - (2 * shared + 1) / (guess.flatten(1).sum(1) + mask.flatten(1).sum(1) + 1)


def discs(rows: int, seed: int, size: int = 16) -> list[dict[str, Tensor]]:
    """Images of one disc in noise, with its mask."""
    random = torch.Generator().manual_seed(seed)
    place = torch.arange(size).float()
    found = []
    for _ in range(rows):
        y, x, radius = (torch.rand(3, generator=random) * torch.tensor([10, 10, 3]) + torch.tensor([3, 3, 2])).tolist()
        mask = ((place[:, None] - y) ** 2 + (place[None] - x) ** 2 < radius**2).float()[None]
        found.append({"image": mask + torch.randn(1, size, size, generator=random), "mask": mask})
    return found


def train(epochs: int = 8) -> tuple[wp.Watch, nn.Module]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds."""
    torch.manual_seed(0)
    train_loader, valid_loader = DataLoader(discs(128, 0), 16, shuffle=True), DataLoader(discs(128, 1), 32)
    net = UNet()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=0)
    optimizer = wp.regularize(optimizer, net, [wp.L2(1e-2).on(wp.convs), wp.GroupL2(1e-2, by="filter").on("bottom.0")])
    watch = wp.watch(
        net, dice, train_loader, valid_loader, optimizer=optimizer, share=1,
        forward=lambda model, batch: model(batch["image"]), target=lambda batch: batch["mask"],
    )  # fmt: skip
    for _ in range(epochs):
        net.train()
        for batch in train_loader:
            optimizer.zero_grad()
            dice(net(batch["image"]), batch["mask"]).mean().backward()
            optimizer.step()
        watch.epoch()
    return watch, net


if __name__ == "__main__":
    watch, _ = train()
    print(watch)
    print(wp.diagnose(watch))
