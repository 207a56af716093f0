"""The search for the nearest references as the end of a network's graph, so that OpenVINO runs both in one call.

The same search as `inspection_core.models.nearest.Memory.search` makes, in products of its own: where two references
are equally near but for the last digits, the two may choose differently.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from inspection_core.models.nearest import Memory

STEP = 512
"""References that are multiplied with all patches at a time, at most. That bounds the products that are held: with
2,048 they take longer where both cores search, since they do not stay in the cache that the cores share."""

GROUP = 64
"""References of which the least product is kept first. The place of a least number takes much longer to find than the
number, so it is looked for among the groups, and then in one of them."""


class References(NamedTuple):
    """What the patches of one view are compared with.

    Parameters
    ----------
    memory
        References.
    density
        float32 ``(m,)``: what a distance to each is multiplied with.
    """

    memory: Memory
    density: Tensor


def with_search(model: Any, references: Sequence[References]) -> Any:
    """Return an ``openvino.Model`` that takes what `model` takes, and gives the search's results in place of features.

    Parameters
    ----------
    model
        ``openvino.Model`` that gives float32 ``(B, h', w', d)`` for each of the references.
    references
        In the order of its outputs.

    Returns
    -------
    openvino.Model
        Gives two outputs for each one of `model`, ``(B, h', w')``: float32, distance times density, and int32, the
        number of the nearest reference.
    """
    import openvino

    model = model.clone()
    results = [
        found
        for result, one in zip(model.get_results(), references, strict=True)
        for found in _search(result.input_value(0), one)
    ]
    return openvino.Model(results, model.get_parameters(), "network and search")


def search_alone(references: References) -> Any:
    """Return an ``openvino.Model`` of the search for one view: what `with_search` puts at the end of a network.

    Where one network is searched with many sets of references, as in cross-fitting, this is compiled in a fifth of the
    time.

    Returns
    -------
    openvino.Model
        Takes float32 features ``(B, h', w', d)``, and gives the two outputs of `with_search`.
    """
    import openvino
    from openvino import opset13 as op

    features = op.parameter([-1, -1, -1, references.memory.vectors.shape[1]], np.float32)
    return openvino.Model(list(_search(features.output(0), references)), [features], "search")


def _search(features: Any, references: References) -> tuple[Any, Any]:
    from openvino import opset13 as op

    memory = references.memory
    vectors = memory.vectors.cpu().numpy()
    last, first = np.array([1]), np.array([0])
    patches = op.reshape(features, np.array([-1, vectors.shape[1]]), False)
    short = patches
    if memory.basis is not None:
        short = op.matmul(patches, op.constant(memory.basis.cpu().numpy()), False, False)
        lengths = [op.reduce_sum(op.multiply(values, values), last, True) for values in (patches, short)]
        short = op.concat([short, op.sqrt(op.relu(op.subtract(*lengths)))], 1)
    chunks = range(0, len(vectors), memory.chunk)
    candidates = [_winner(short, memory, range(start, min(start + memory.chunk, len(vectors)))) for start in chunks]
    # A patch that is no number is nearest to none; what comes after must find a reference all the same.
    candidates = [op.minimum(number, np.int32(len(vectors) - 1)) for number in candidates]
    squares, whole = [], op.constant(vectors)
    for number in candidates:  # one after the other: what is made of each stays in cache
        apart = op.subtract(patches, op.gather(whole, op.squeeze(number, last), first))
        squares.append(op.reduce_sum(op.multiply(apart, apart), last, True))
    nearest = _place(op.concat(squares, 1))
    number = op.squeeze(op.gather_elements(op.concat(candidates, 1), nearest.output(1), 1), last)
    distance = op.sqrt(op.squeeze(nearest.output(0), last))
    density = op.gather(op.constant(references.density.cpu().numpy()), number, first)
    grid = op.gather(op.shape_of(features), np.array([0, 1, 2]), first)
    return tuple(op.reshape(values, grid, False).output(0) for values in (op.multiply(distance, density), number))


def _winner(short: Any, memory: Memory, chunk: range) -> Any:
    """Return the reference of a chunk with the least product with each patch, ``(n, 1)``."""
    from openvino import opset13 as op

    found = [_least(short, memory, slice(at, min(at + STEP, chunk.stop))) for at in chunk[::STEP]]
    if len(found) == 1:
        return found[0][1]
    products, numbers = (op.concat(list(values), 1) for values in zip(*found, strict=True))
    return op.gather_elements(numbers, _place(products).output(1), 1)


def _least(short: Any, memory: Memory, some: slice) -> tuple[Any, Any]:
    """Return the least product of each patch with some references, and the reference: ``(n, 1)`` each."""
    from openvino import opset13 as op

    columns = memory.columns[:, some].cpu().numpy()
    norms = memory.norms[some].cpu().numpy()
    short_of = -len(norms) % GROUP
    columns = np.pad(columns, ((0, 0), (0, short_of)))
    norms = np.pad(norms, (0, short_of), constant_values=np.inf)
    products = op.add(op.matmul(short, op.constant(columns), False, False), op.constant(norms[None]))
    products = op.reshape(products, np.array([0, len(norms) // GROUP, GROUP]), True)
    group = _place(op.reduce_min(products, np.array([2]), False)).output(1)
    best = _place(op.gather_nd(products, group, 1))
    return best.output(0), op.add(op.add(op.multiply(group, np.int32(GROUP)), best.output(1)), np.int32(some.start))


def _place(values: Any) -> Any:
    """Return a node with the least value of each row, and its place, ``(n, 1)`` each."""
    from openvino import opset13 as op

    return op.topk(values, np.int32(1), 1, "min", "none")
