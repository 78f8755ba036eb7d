"""A GAN: two networks and two optimizers. The discriminator is watched on rows that it was not trained on; a gap of its losses
is what an overfitted discriminator is. The generator's modes, statistics and random states stay as they are.

Run: python examples/own_loop_gan.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import wellposed as wp

NOISE = 4


def ring(rows: int, seed: int) -> Tensor:
    """Points near a circle."""
    random = torch.Generator().manual_seed(seed)
    angle = torch.rand(rows, generator=random) * 2 * torch.pi
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(rows, 2, generator=random)


def networks() -> tuple[nn.Module, nn.Module]:
    """Generator, with batch norm as they have it, and discriminator."""
    generator = nn.Sequential(nn.Linear(NOISE, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 2))
    discriminator = nn.Sequential(
        nn.Linear(2, 64), nn.LeakyReLU(0.2), nn.Linear(64, 64), nn.LeakyReLU(0.2), nn.Linear(64, 1)
    )
    return generator, discriminator


def train(terms: tuple[wp.Term, ...] = (), epochs: int = 20, rows: int = 128) -> tuple[wp.Watch, Tensor]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds. Returns the watch and some made points."""
    torch.manual_seed(0)
    real_loader, valid_loader = (
        DataLoader(TensorDataset(ring(rows, 0)), 32, shuffle=True),
        DataLoader(TensorDataset(ring(512, 1)), 128),
    )
    generator, discriminator = networks()
    making = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    judging = torch.optim.Adam(discriminator.parameters(), lr=2e-3, betas=(0.5, 0.999))
    judging = wp.regularize(judging, discriminator, terms)

    def judged(model: nn.Module, batch: list[Tensor]) -> Tensor:
        """Scores of real points and of as many made ones, side by side: a row of the watch is a pair."""
        made = generator(torch.randn(len(batch[0]), NOISE))
        return torch.cat([model(batch[0]), model(made)], 1)

    watch = wp.watch(
        discriminator, lambda scores, target: F.binary_cross_entropy_with_logits(scores, target, reduction="none").mean(1),
        real_loader, valid_loader, optimizer=judging, share=1, forward=judged,
        target=lambda batch: torch.tensor([[1.0, 0.0]]).expand(len(batch[0]), 2),
    )  # fmt: skip
    for _ in range(epochs):
        for (real,) in real_loader:
            one, zero = torch.ones(len(real), 1), torch.zeros(len(real), 1)
            made = generator(torch.randn(len(real), NOISE))
            making.zero_grad()
            F.binary_cross_entropy_with_logits(discriminator(made), one).backward()
            making.step()
            judging.zero_grad()
            scores = discriminator(real), discriminator(made.detach())
            (sum(map(F.binary_cross_entropy_with_logits, scores, (one, zero))) / 2).backward()
            judging.step()
        watch.epoch()
    with torch.no_grad():
        return watch, generator.eval()(torch.randn(512, NOISE))


if __name__ == "__main__":
    for terms in ((), (wp.SpectralBall(1.0).on(wp.weights),)):
        watch, _ = train(terms)
        print(terms, watch, wp.diagnose(watch), sep="\n")
