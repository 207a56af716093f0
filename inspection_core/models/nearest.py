"""Exact nearest neighbours, and the coreset that keeps their number small.

Distances come from blocked matrix products with cached norms: ``|q - m|^2 = |q|^2 - 2 q.m + |m|^2``. That form loses
digits where q and m are close, so the distance to the winners is computed once more from the difference.
"""

from __future__ import annotations

import torch
from torch import Tensor

BLOCK = 1024
"""Queries a block. Always this many, padded: a fixed shape makes a result independent of what else is searched."""


class Memory:
    """A set of reference vectors to be searched.

    Parameters
    ----------
    vectors
        float32 ``(m, d)``, m at least 1.
    """

    def __init__(self, vectors: Tensor) -> None:
        self.vectors = vectors.contiguous()
        self.norms = self.vectors.square().sum(dim=1)

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, device: torch.device) -> Memory:
        """Return the memory on another device."""
        return self if self.vectors.device == device else Memory(self.vectors.to(device))

    def search(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances and numbers, both ``(n, k)``, of the k nearest references of each query ``(n, d)``.

        Distances are Euclidean and ascend along k. Memory is bounded by a block of `BLOCK` x m products.
        """
        k = min(k, len(self))
        distances = torch.empty((len(queries), k), dtype=torch.float32, device=queries.device)
        numbers = torch.empty((len(queries), k), dtype=torch.int64, device=queries.device)
        block = torch.zeros((BLOCK, queries.shape[1]), dtype=queries.dtype, device=queries.device)
        for start in range(0, len(queries), BLOCK):
            part = queries[start : start + BLOCK]
            block[: len(part)] = part
            # |q|^2 is the same for all references of a query, so it plays no part in who is nearest.
            products = torch.addmm(self.norms, block, self.vectors.T, alpha=-2)
            best = products.topk(k, dim=1, largest=False).indices[: len(part)]
            exact = (part[:, None, :] - self.vectors[best]).square().sum(dim=2).sqrt()
            order = exact.argsort(dim=1, stable=True)
            distances[start : start + BLOCK] = exact.gather(1, order)
            numbers[start : start + BLOCK] = best.gather(1, order)
        return distances, numbers


def greedy_coreset(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose `count` vectors that cover all others: the farthest-point heuristic for k-centre.

    Each step takes the vector that is farthest from those chosen so far; the covering radius is at most twice the best
    possible (Gonzalez 1985; Sener and Savarese 2018).

    Parameters
    ----------
    vectors
        float32 ``(n, d)``.
    count
        How many to choose; all where there are no more. The first is the one nearest to the mean.

    Returns
    -------
    numbers, radii
        int64 ``(count,)`` in the order of choice, and float32 ``(count,)``: the covering radius after each choice.
    """
    count = min(count, len(vectors))
    norms = vectors.square().sum(dim=1)
    nearest = torch.full((len(vectors),), torch.inf, device=vectors.device)
    numbers = torch.empty(count, dtype=torch.int64)
    radii = torch.empty(count)
    product = torch.empty_like(norms)
    chosen = int((vectors - vectors.mean(dim=0)).square().sum(dim=1).argmin())
    for step in range(count):
        numbers[step] = chosen
        torch.mv(vectors, vectors[chosen], out=product)
        product.mul_(-2).add_(norms).add_(norms[chosen])
        torch.minimum(nearest, product, out=nearest)
        nearest[chosen] = 0  # exactly, whatever rounding says: nothing is chosen twice
        farthest, index = nearest.max(dim=0)
        chosen = int(index)
        radii[step] = farthest.clamp_min(0).sqrt()
    return numbers, radii


def projection(dim: int, target: int, seed: int) -> Tensor:
    """Return a random matrix ``(dim, target)`` that keeps distances on average (Johnson and Lindenstrauss 1984)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((dim, target), generator=generator) / target**0.5
