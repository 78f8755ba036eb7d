"""A graph network with message passing of its own: one graph, of whose nodes some are trained on. The rows of the watch are
numbers of nodes; ``forward=`` sends the whole graph through the network and takes those.

Run: python examples/own_loop_graph.py
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import wellposed as wp


def communities(nodes: int = 300, groups: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    """Features, neighbours (2, edges) and groups: weak features, and edges mostly within a group."""
    random = torch.Generator().manual_seed(0)
    group = torch.arange(nodes) % groups
    chance = torch.where(group[:, None] == group[None], 0.06, 0.01)
    edges = (torch.rand(nodes, nodes, generator=random) < chance).triu(1).nonzero().T
    features = torch.randn(nodes, 24, generator=random)
    features[:, :groups] += F.one_hot(group, groups)
    return features, torch.cat([edges, edges.flip(0)], 1), group


class Message(nn.Module):
    """Each node takes the mean of what its neighbours send, and what it has itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.own, self.sent = nn.Linear(inputs, outputs), nn.Linear(inputs, outputs, bias=False)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        source, into = edges
        sums = torch.zeros_like(x).index_add(0, into, x[source])
        count = torch.zeros(len(x)).index_add(0, into, torch.ones(len(into))).clamp(min=1)
        return self.own(x) + self.sent(sums / count[:, None])


class Network(nn.Module):
    """Two rounds of messages."""

    def __init__(self, inputs: int, groups: int, width: int = 32) -> None:
        super().__init__()
        self.first, self.second = Message(inputs, width), Message(width, groups)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.second(F.dropout(self.first(x, edges).relu(), 0.3, self.training), edges)


def train(terms: tuple[wp.Term, ...] = (), epochs: int = 60) -> tuple[wp.Watch, nn.Module]:
    """An ordinary training loop; the lines with ``wp.`` are all that wellposed adds."""
    torch.manual_seed(0)
    x, edges, group = communities()
    known, valid = torch.arange(60), torch.arange(60, 300)
    net = Network(x.shape[1], 3)
    optimizer = wp.regularize(torch.optim.Adam(net.parameters(), lr=1e-2), net, terms)
    watch = wp.watch(
        net, "cross_entropy", train=(known, group[known]), valid=(valid, group[valid]), optimizer=optimizer, share=1,
        forward=lambda model, batch: model(x, edges)[batch[0]],
    )  # fmt: skip
    for _ in range(epochs):
        net.train()
        optimizer.zero_grad()
        F.cross_entropy(net(x, edges)[known], group[known]).backward()
        optimizer.step()
        watch.epoch()
    return watch, net


if __name__ == "__main__":
    for terms in ((), (wp.GroupL2(3e-3, by="input").on("first.*"), wp.L2(3e-2).on(wp.weights))):
        watch, _ = train(terms)
        print(terms, watch.history, wp.diagnose(watch), sep="\n")
