"""Nearest neighbours, and the coreset that keeps their number small.

Distances come from blocked matrix products with cached norms: ``|q - m|^2 = |q|^2 - 2 q.m + |m|^2``. That form loses
digits where q and m are close, so the distance to the winners is computed once more from the difference.

With a basis candidates are found in fewer dimensions: the coordinates in it, and the length of what is left over. Of
each chunk of the references the nearest one is a candidate; the candidate that is nearest in all dimensions is given.
Short vectors are never farther apart than the whole ones. So the least distance of all lies between that of the nearest
short vector and the one given.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

BLOCKS = {"cpu": (1040, 104)}
"""Queries that are shortened together and those that are searched together, by the kind of device. Always so many,
padded: a fixed shape makes a result independent of what else is searched. On a CPU the products of a search stay in its
cache, and the thousand or so patches of an image leave little of the last block empty: 64 at a time are a tenth slower,
and more are no faster."""

BLOCK = (1024, 1024)
"""The same on any other device."""

CHUNKS = 8
"""Candidates, where the search is in a basis: one of each chunk of the references. Those of a coreset lie in the order
of choice, so that the nearest few seldom share a chunk."""

CANDIDATES = 256
"""Farthest vectors that are looked at together while a coreset is chosen."""

COVER_BLOCK = 2048
"""Vectors whose distances to the newly chosen ones are computed at a time, while they are in the processor's cache:
four times as many take half as long again."""


class Memory:
    """A set of reference vectors to be searched.

    Parameters
    ----------
    vectors
        float32 ``(m, d)``, m at least 1.
    basis
        ``(d, s)``, orthonormal columns, as from `principal`: the directions that candidates are searched in. If not
        given, the search is exact.

    Attributes
    ----------
    chunk
        References of which one is a candidate; all of an exact search.
    columns, norms
        float32 ``(s + 1, m)``, or ``(d, m)`` of an exact search, and ``(m,)``: the references as they are searched,
        times -2, and their squared lengths.
    """

    def __init__(self, vectors: Tensor, basis: Tensor | None = None) -> None:
        self.vectors = vectors.contiguous()
        self.basis = basis
        self.chunk = len(vectors) if basis is None else math.ceil(len(vectors) / CHUNKS)
        short = self._shorten(self.vectors)
        self.norms = short.square().sum(dim=1)
        self.columns = (-2 * short.T).contiguous()

    def __len__(self) -> int:
        return len(self.vectors)

    def to(self, device: torch.device) -> Memory:
        """Return the memory on another device."""
        if self.vectors.device == device:
            return self
        return Memory(self.vectors.to(device), None if self.basis is None else self.basis.to(device))

    def search(self, queries: Tensor, k: int = 1) -> tuple[Tensor, Tensor]:
        """Return distances and numbers, both ``(n, k)``, of the k nearest references of each query ``(n, d)``.

        Distances are Euclidean and ascend along k. Memory is bounded by blocks of queries. With a basis, the one is the
        nearest of its candidates, one of each `chunk` references; where k is more than 1, the k are those that are
        nearest in the basis.
        """
        k, where = min(k, len(self)), queries.device
        many, few = BLOCKS.get(where.type, BLOCK)
        chunk = self.chunk if k == 1 else len(self)
        chunks = math.ceil(len(self) / chunk)
        numbers = torch.empty((len(queries), k), dtype=torch.int64, device=where)
        distances = torch.empty((len(queries), k), dtype=torch.float32, device=where)
        block = torch.zeros((many, queries.shape[1]), dtype=queries.dtype, device=where)
        products = torch.full((few, chunks * chunk), math.inf, dtype=queries.dtype, device=where)
        candidates = torch.empty((many, chunks * k), dtype=torch.int64, device=where)
        apart = torch.empty((many, chunks * k), dtype=torch.float32, device=where)
        firsts = torch.arange(0, len(self), chunk, device=where)[:, None]
        for start in range(0, len(queries), many):
            part = queries[start : start + many]
            block[: len(part)] = part
            short = self._shorten(block)
            for at in range(0, len(part), few):
                # |q|^2 is the same for all references of a query, so it plays no part in who is nearest.
                torch.addmm(self.norms, short[at : at + few], self.columns, out=products[:, : len(self)])
                places = _least(products.view(few, chunks, chunk), k) + firsts
                candidates[at : at + few] = places.flatten(1)[: many - at]
            best, distance = candidates[: len(part)], apart[: len(part)]
            for one, how_far in zip(best.T, distance.T, strict=True):  # one by one they stay in cache
                how_far.copy_((part - self.vectors[one]).square_().sum(dim=1).sqrt_())
            order = distance.argmin(dim=1, keepdim=True) if k == 1 else distance.argsort(dim=1, stable=True)
            numbers[start : start + many] = best.gather(1, order)
            distances[start : start + many] = distance.gather(1, order)
        return distances, numbers

    def _shorten(self, vectors: Tensor) -> Tensor:
        """Return coordinates in the basis, and the length of what is left over."""
        if self.basis is None:
            return vectors
        short = vectors @ self.basis
        left = (vectors.square().sum(dim=1) - short.square().sum(dim=1)).clamp_min(0).sqrt()
        return torch.cat([short, left[:, None]], dim=1)


def _least(products: Tensor, k: int) -> Tensor:
    """Return the places ``(n, chunks, k)`` of the smallest entries of each chunk ``(n, chunks, m)``."""
    if k > 1:
        return products.topk(k, largest=False).indices
    if products.device.type == "cpu":  # a tenth of the time of torch's, and the same: the first of equal ones
        return torch.from_numpy(products.numpy().argmin(axis=2)[..., None])
    return products.argmin(dim=2, keepdim=True)


def greedy_coreset(vectors: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Choose `count` vectors that cover all others: the farthest-point heuristic for k-centre.

    Each step takes the vector that is farthest from those chosen so far; the covering radius is at most twice the best
    possible (Gonzalez 1985; Sener and Savarese 2018).

    Many steps share one pass over the vectors. The `CANDIDATES` farthest ones are looked at among themselves: while the
    farthest of them is still as far as the last of them was, no vector outside the list can be farther, since distances
    only shrink. So the choice is the same as step by step, for a fraction of the memory traffic.

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
    first = int((vectors - vectors.mean(dim=0)).square().sum(dim=1).argmin())
    nearest = torch.full((len(vectors),), torch.inf, device=vectors.device)
    _bring_near(nearest, vectors, norms, [first])
    numbers, squares = [first], []
    while len(numbers) < count:
        values, listed = nearest.topk(min(CANDIDATES, len(vectors)))
        bound = float(values[-1]) if len(listed) < len(vectors) else -math.inf
        candidates = vectors[listed]
        between = torch.cdist(candidates, candidates, compute_mode="donot_use_mm_for_euclid_dist").square()
        # In numpy: for so few numbers a call of torch takes several times as long, and there is one step a reference.
        apart, left, places = between.cpu().numpy(), values.cpu().numpy(), listed.tolist()
        chosen: list[int] = []
        while len(numbers) < count:
            place = int(left.argmax())
            farthest = float(left[place])
            if chosen and (farthest < bound or farthest == -math.inf):
                break
            chosen.append(places[place])
            numbers.append(chosen[-1])
            squares.append(farthest)
            np.minimum(left, apart[place], out=left)
            left[place] = -math.inf  # nothing is chosen twice, not even among equal vectors
        _bring_near(nearest, vectors, norms, chosen)
    squares.append(float(nearest.max()))
    return torch.tensor(numbers), torch.tensor(squares).clamp_min(0).sqrt()


def _bring_near(nearest: Tensor, vectors: Tensor, norms: Tensor, chosen: list[int]) -> None:
    """Update squared distances to the nearest chosen vector, in place; those of the chosen become minus infinity."""
    some = vectors[chosen]
    for start in range(0, len(vectors), COVER_BLOCK):
        part = slice(start, start + COVER_BLOCK)
        products = torch.addmm(norms[chosen], vectors[part], some.T, alpha=-2)
        torch.minimum(nearest[part], products.amin(dim=1).add_(norms[part]), out=nearest[part])
    nearest[chosen] = -math.inf


def projection(dim: int, target: int, seed: int) -> Tensor:
    """Return a random matrix ``(dim, target)`` that keeps distances on average (Johnson and Lindenstrauss 1984)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((dim, target), generator=generator) / math.sqrt(target)


def principal(vectors: Tensor, count: int) -> Tensor:
    """Return the `count` directions ``(d, count)`` in which vectors ``(n, d)`` vary most: orthonormal, widest first."""
    wide = vectors.T.to("cpu", torch.float64, copy=True)
    wide.sub_(wide.mean(dim=1, keepdim=True))  # in place, where torch.cov would hold all of them once more
    directions: Tensor = torch.linalg.eigh(wide @ wide.T / (len(vectors) - 1)).eigenvectors
    return directions[:, -count:].flip(1).to(vectors).contiguous()
