"""Networks compiled for the CPU by OpenVINO, from a torch module in memory, or from a graph made of one before.

A network is compiled once, with its input's sides left free, so that a new size costs nothing; for a size that comes
again and again it is compiled once more. Each call runs on one core, and as many calls as there are cores run at once:
so no core waits for another, and a result does not depend on how many there are. Networks whose scratch memory is large
run one call at a time on all cores instead, and are compiled for each shape that comes; the last few are kept.
"""

from __future__ import annotations

import functools
import itertools
import math
import queue
import tempfile
import threading
import warnings
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from inspection_core import device as devices
from inspection_core.models.compiled_order import reads_first

if TYPE_CHECKING:
    import torch

SHAPES = 16
"""Shapes that a network is kept compiled for; compiling takes about a tenth of a second."""

OFTEN = 32
"""Calls of one shape after which a network with free sides is compiled for it: a fifth of a call's time is saved, so
that twice as many pay for it."""

FIXED = 4
"""Shapes that a network with free sides is compiled for besides."""

Graph = tuple[bytes, bytes]
"""A network as OpenVINO keeps it; see `written`."""

GRAPH = ("graph.{}.xml", "graph.{}.bin")
"""Tensors that hold the bytes of what OpenVINO runs, by the number of the network. Torch's weights are in the file as
well; this saves the import of the library that builds the network, and the conversion."""

HALVED = 1024
"""Numbers that a constant has at least where it is kept as float16: what is shorter is no weight of a convolution."""


_ONE = threading.Lock()


def openvino_core() -> Any:
    """Return the one ``openvino.Core`` of this process, which is never given back.

    On processors with wide registers, OpenVINO's CPU plugin sets a stack for signal handlers when it is made, and puts
    back what it found when it goes. Of several, gone in another order than they came, one puts back memory that is no
    longer there; and the next signal, such as Ctrl-C, ends the process with a fault.
    """
    with _ONE:  # two threads that ask first would each make one
        return _core()


@functools.cache
def _core() -> Any:
    import openvino

    return openvino.Core()


def convert(module: torch.nn.Module, example: torch.Tensor) -> Any:
    """Return an ``openvino.Model`` of a torch module, with all axes of its input free.

    The front end is called by itself: ``openvino.convert_model`` reports its use to its makers over the network, and
    takes several times as long.

    Parameters
    ----------
    module
        In evaluation mode, one tensor in, a tensor or a tuple of them out. Which way it takes may not depend on the
        input's values or shape.
    example
        An input to trace it with.
    """
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing: constants of the network are constants, and torch prefers export
        traced = cast("Any", torch.jit).trace(module, example, check_trace=False)
        decoder = TorchScriptPythonDecoder(traced)  # named, since it must live until the end of the conversion
        front_end = FrontEndManager().load_by_framework("pytorch")
        return front_end.convert(front_end.load(decoder))


def written(model: Any) -> Graph:
    """Return an ``openvino.Model`` as the two files that OpenVINO keeps it in, ``.xml`` and ``.bin``; see `read`.

    Equal models give equal bytes: names that come from counters of the process are left out. Weights that are numbers
    of float16, as those of a trained network are in its file, take two bytes each.
    """
    import openvino

    model = model.clone()
    _halve(model)
    model.set_friendly_name("network")
    for number, node in enumerate(model.get_ordered_ops()):
        node.set_friendly_name(str(number))
        for output in node.outputs():
            output.get_tensor().set_names(set())
    with tempfile.TemporaryDirectory(prefix="graph-") as folder:
        xml, constants = Path(folder) / "graph.xml", Path(folder) / "graph.bin"
        openvino.serialize(model, xml, constants)
        return xml.read_bytes(), constants.read_bytes()


def _halve(model: Any) -> None:
    """Keep large constants as float16 where that is what they are, with a conversion, which `Compiled` takes out."""
    from openvino import opset13 as op

    for node in model.get_ordered_ops():
        if node.get_type_name() != "Constant" or node.get_element_type().get_type_name() != "f32":
            continue
        values = node.data
        if values.size < HALVED:
            continue
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if np.array_equal(half, values):
            node.output(0).replace(op.convert(op.constant(half), "f32").output(0))


def as_tensors(graphs: Sequence[Graph]) -> dict[str, torch.Tensor]:
    """Return networks as tensors for the file of a model's weights; see `graphs_in`."""
    import torch

    return {
        part.format(number): torch.frombuffer(bytearray(content), dtype=torch.uint8)
        for number, graph in enumerate(graphs)
        for part, content in zip(GRAPH, graph, strict=True)
    }


def graphs_in(tensors: Mapping[str, torch.Tensor]) -> list[Graph]:
    """Return the networks that a model's weights hold for OpenVINO, in order; models from before have none."""
    graphs: list[Graph] = []
    while all(part.format(len(graphs)) in tensors for part in GRAPH):
        xml, constants = (tensors[part.format(len(graphs))].numpy().tobytes() for part in GRAPH)
        graphs.append((xml, constants))
    return graphs


def read(xml: bytes, constants: bytes) -> Any:
    """Return the ``openvino.Model`` that `written` was given.

    Raises
    ------
    RuntimeError
        If this version of OpenVINO cannot read it.
    """
    import openvino

    held = np.frombuffer(constants, np.uint8).copy()  # of its own: OpenVINO reads from there for as long as it runs
    return openvino_core().read_model(xml, openvino.Tensor(held))


def kept_or_made(kept: Graph | None, fits: Callable[[Any], bool], make: Callable[[], Any]) -> Any:
    """Return the ``openvino.Model`` that was kept, where this version of OpenVINO reads it and it fits, else a new one.

    A new one is written and read once: what is compiled is then the same, to the bit, as where a model brings its
    graph.
    """
    if kept is not None:
        with suppress(RuntimeError):  # of another version of OpenVINO
            model = read(*kept)
            if fits(model):
                return model
    return read(*written(make()))


def _sum_in_short_runs(model: Any) -> None:
    """Take means and variances of instance norms axis by axis.

    OpenVINO adds all voxels of a channel one after the other in float32. Of a million voxels, most of them alike, as in
    a window that is background in large parts, that gives a standard deviation that is wrong by 0.2 %. Sums of single
    axes stay short. Sums and means take turns, since OpenVINO would put two of a kind together again, and all of them
    back into the operation that they take the place of.
    """
    from openvino import opset13 as op
    from openvino.passes import ConstantFolding, Manager

    def mean(values: Any, axes: Sequence[int]) -> Any:
        sizes = op.gather(op.shape_of(values), op.constant(list(axes[::2])), op.constant(0))
        count = op.convert(op.reduce_prod(sizes, op.constant([0]), False), "f32")
        for k, axis in enumerate(axes):
            values = (op.reduce_mean if k % 2 else op.reduce_sum)(values, op.constant([axis]), True)
        return op.divide(values, count)

    fold = Manager()
    fold.register_pass(ConstantFolding())  # the front end leaves the axes to be worked out
    fold.run_passes(model)
    for node in model.get_ordered_ops():
        if node.get_type_name() != "MVN":
            continue
        how, axes = node.get_attributes(), node.input_value(1).get_node()
        if how["eps_mode"] != "INSIDE_SQRT" or not how["normalize_variance"] or axes.get_type_name() != "Constant":
            continue
        values = node.input_value(0)
        order = sorted((int(axis) % len(values.get_partial_shape()) for axis in axes.data), reverse=True)
        if len(order) < 2:  # of a layer norm: short as it is
            continue
        middle = mean(values, order)
        # Not the square of the difference that is divided below: that would be held beside its square.
        variance = mean(op.squared_difference(values, middle), order)
        scale = op.sqrt(op.add(variance, op.constant(np.float32(how["eps"]))))
        node.output(0).replace(op.divide(op.subtract(values, middle), scale).output(0))


DOUBLED = {"strides": 2, "dilations": 1, "pads_begin": 1, "pads_end": 1, "output_padding": 1}
"""How a transposed convolution of 3 taps doubles a grid."""

PLAIN = {"strides": 1, "dilations": 1, "pads_begin": 1, "pads_end": 1}
"""How a convolution of 3 taps keeps a grid."""

FEW = 8
"""Channels up to which a transposed convolution leaves at least half of a processor's widest registers empty."""


def _spread_channels(model: Any) -> None:
    """Turn transposed convolutions that double a grid, and give few channels, into plain ones with many.

    OpenVINO computes the channels of a voxel side by side. A U-Net's last step to the full grid gives as few as there
    are classes. Here all voxels that a cell becomes, eight of a volume, are channels of one convolution, and are then
    spread over space. Along an axis, the even one of a cell's two voxels is the cell by the middle tap; the odd one is
    the cell by the last tap and the next cell by the first.
    """
    from openvino import opset13 as op

    for node in model.get_ordered_ops():
        weights = _three_taps(node, "ConvolutionBackpropData", DOUBLED)  # (channels in, channels out, *taps)
        if weights is None or weights.shape[1] > FEW:
            continue
        axes = weights.ndim - 2
        taps = (((0, 1),), ((0, 2), (1, 0)))  # of the even and the odd voxel: cell, from this one, and tap
        spread = np.zeros((*(2,) * axes, *weights.shape[1::-1], *(2,) * axes), weights.dtype)
        for voxel in itertools.product((0, 1), repeat=axes):
            for pairs in itertools.product(*(taps[v] for v in voxel)):
                cell, tap = zip(*pairs, strict=True)
                spread[(*voxel, slice(None), slice(None), *cell)] = weights[(slice(None), slice(None), *tap)].T
        many = spread.reshape(-1, weights.shape[0], *(2,) * axes)
        none, one = [0] * axes, [1] * axes
        cells = op.convolution(node.input_value(0), op.constant(many), one, none, one, one)
        node.output(0).replace(op.depth_to_space(cells, "blocks_first", 2).output(0))


VERY_FEW = 4
"""Channels up to which a convolution is worth more than twice its operations if that fills the registers."""


def _fill_registers(model: Any) -> None:
    """Turn convolutions of 3 taps that give very few channels into ones that give all voxels of a block at once.

    Its voxels, eight of a volume, are channels of one convolution of 4 taps and a stride of 2, and are then spread over
    space; see `_spread_channels`. Along each axis one of the four taps is 0 for each voxel. So a volume takes 2.4 times
    the operations, with eight times as many channels to be computed side by side. Where the input itself is added, as
    in a residual unit, it comes into the weights; a bias is added before the voxels are spread.
    """
    from openvino import opset13 as op

    for node in model.get_ordered_ops():
        weights = _three_taps(node, "Convolution", PLAIN)  # (channels out, channels in, *taps)
        if weights is None or weights.shape[0] > VERY_FEW or node.get_attributes()["auto_pad"] != "explicit":
            continue
        axes = weights.ndim - 2
        if any(side.is_dynamic or side.get_length() % 2 for side in list(node.get_output_partial_shape(0))[2:]):
            continue
        weights = np.array(weights)
        last, bias = _taken_in(node, weights)
        blocks = np.zeros((*(2,) * axes, *weights.shape[:2], *(4,) * axes), weights.dtype)
        for voxel in itertools.product((0, 1), repeat=axes):
            where: Any = (*voxel, ..., *(slice(first, first + 3) for first in voxel))
            blocks[where] = weights
        one, two = [1] * axes, [2] * axes
        many = op.constant(blocks.reshape(-1, *blocks.shape[axes + 1 :]))
        cells = op.convolution(node.input_value(0), many, two, one, one, one)
        if bias is not None:
            cells = op.add(cells, op.constant(np.concatenate([bias] * 2**axes, axis=1)))
        last.output(0).replace(op.depth_to_space(cells, "blocks_first", 2).output(0))


def _taken_in(node: Any, weights: NDArray[np.float32]) -> tuple[Any, NDArray[np.float32] | None]:
    """Find what is added to a convolution's output, and take its own input into its weights.

    Parameters
    ----------
    node
        The convolution.
    weights
        Its weights, changed in place where its own input is added.

    Returns
    -------
    last, bias
        The node that gives the sum, and ``(1, channels out, 1, ...)`` or None.
    """
    last, bias = node, None
    source = _named(node.input_value(0))
    channels, axes = len(weights), weights.ndim - 2
    while len(targets := last.output(0).get_target_inputs()) == 1:
        (target,) = targets
        after = target.get_node()
        if after.get_type_name() != "Add":
            break
        added = after.input_value(1 - target.get_index())
        values = _constant(added)
        if values is not None and values.shape == (1, channels, *(1,) * axes):
            bias = values if bias is None else bias + values
        elif _named(added) == source and weights.shape[1] == channels:
            for channel in range(channels):
                weights[(channel, channel, *(1,) * axes)] += 1
        else:
            break
        last = after
    return last, bias


def _named(value: Any) -> tuple[str, int]:
    """Return what tells a value of a graph from all others; torch's sums multiply by 1, which is looked through."""
    node = value.get_node()
    if node.get_type_name() == "Multiply":
        for factor, other in (node.input_values(), node.input_values()[::-1]):
            values = _constant(factor)
            if values is not None and values.size == 1 and values.item() == 1:
                return _named(other)
    return node.get_name(), value.get_index()


def _constant(value: Any) -> NDArray[Any] | None:
    """Return the numbers of a constant, None of anything else."""
    node = value.get_node()
    return node.data if node.get_type_name() == "Constant" else None


def _three_taps(node: Any, kind: str, how: Mapping[str, int]) -> NDArray[Any] | None:
    """Return the weights of a convolution of a kind with 3 taps, and these attributes, along every axis; else None."""
    if node.get_type_name() != kind or node.get_input_size() != 2:
        return None
    weights, attributes = _constant(node.input_value(1)), node.get_attributes()
    if weights is None:
        return None
    axes = weights.ndim - 2
    fits = weights.shape[2:] == (3,) * axes and all(
        list(attributes[name]) == [value] * axes for name, value in how.items()
    )
    return weights if fits else None


class Compiled:
    """A network that runs in OpenVINO. Threads may call it at the same time.

    Parameters
    ----------
    model
        ``openvino.Model`` of `convert` or `read`.
    alone
        Run one call at a time, on all cores. What it returns is then written over by the next call.
    """

    def __init__(self, model: Any, alone: bool = False) -> None:
        self._alone = alone
        self.model = model
        self._by_shape: OrderedDict[tuple[int, ...], queue.SimpleQueue[Any]] = OrderedDict()
        self._fixed: OrderedDict[tuple[int, ...], queue.SimpleQueue[Any]] = OrderedDict()
        self._calls: Counter[tuple[int, ...]] = Counter()
        self._shares: dict[tuple[int, ...], bool] = {}
        self._lock = threading.Lock()

    def __call__(self, batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Return what the network gives for a float32 batch, in its order of outputs."""
        if self._alone:
            return self._infer(self._requests(batch.shape), batch)
        with self._lock:
            fixed = self._fixed.get(batch.shape)
            if fixed is None:
                self._calls[batch.shape] += 1
                often = self._calls[batch.shape] == OFTEN
            else:
                self._fixed.move_to_end(batch.shape)
        if fixed is not None:
            return self._infer(fixed, batch)
        given = self._infer(self._requests(batch.shape), batch)
        if often:
            self._fix(batch, given)
        return given

    def _fix(self, batch: NDArray[np.float32], given: Sequence[NDArray[Any]]) -> None:
        """Compile for the shape of a batch, and use that from now on if it gives the same, to the bit."""
        try:
            fixed = self._compile(batch.shape)
        except RuntimeError:  # of an optimisation that asks for known sides
            return
        noise = np.random.default_rng(0).random(batch.shape, np.float32)  # an image may be all of one colour
        for one, wanted in ((batch, given), (noise, self._infer(self._requests(batch.shape), noise))):
            if not all(map(np.array_equal, self._infer(fixed, one), wanted)):
                return  # else a score would depend on how many images came before
        with self._lock:
            self._fixed[batch.shape] = fixed
            if len(self._fixed) > FIXED:
                shape, _ = self._fixed.popitem(last=False)
                del self._calls[shape]

    def _infer(self, waiting: queue.SimpleQueue[Any], batch: NDArray[np.float32]) -> list[NDArray[Any]]:
        request = waiting.get()
        try:
            request.infer([batch], share_inputs=True, share_outputs=True)  # else all that comes out is copied
            given = [request.get_output_tensor(i).data for i in range(len(self.model.outputs))]
            return given if self._alone else [np.array(values) for values in given]
        finally:
            waiting.put(request)

    def prepare(self, shape: tuple[int, ...]) -> None:
        """Compile for a shape before the first batch of it comes."""
        self._requests(shape)

    def room(self, shape: tuple[int, ...]) -> NDArray[np.float32] | None:
        """Return where the next batch of a shape may be put: in the memory of what the network gives for it.

        That makes one array less. None where it is too small, or where it is not certain that all of the batch is read
        before anything is written over it; see `reads_first`. Only for networks that run `alone`.
        """
        if not self._alone:
            return None
        waiting = self._requests(shape)
        request = waiting.get()
        try:
            if shape not in self._shares:
                self._shares[shape] = reads_first(request.get_compiled_model())
            if not self._shares[shape]:
                return None
            given: NDArray[Any] = request.get_output_tensor(0).data
        finally:
            waiting.put(request)
        count = math.prod(shape)
        if given.dtype != np.float32 or given.size < count:
            return None
        return given.reshape(-1)[:count].reshape(shape)

    def _requests(self, shape: tuple[int, ...]) -> queue.SimpleQueue[Any]:
        """Return the free requests for a shape; a request is used by one thread at a time."""
        if not self._alone:
            shape = (*shape[:2], *(-1 for _ in shape[2:]))
        with self._lock:
            if shape not in self._by_shape:
                self._by_shape[shape] = self._compile(shape)
                if len(self._by_shape) > SHAPES:
                    gone, _ = self._by_shape.popitem(last=False)
                    self._shares.pop(gone, None)
            self._by_shape.move_to_end(shape)
            return self._by_shape[shape]

    def _compile(self, shape: tuple[int, ...]) -> queue.SimpleQueue[Any]:
        model = self.model.clone()
        model.reshape(list(shape))
        _sum_in_short_runs(model)
        _spread_channels(model)
        if self._alone:  # else a network with free sides, which this leaves as it is, would give other digits
            _fill_registers(model)
        cores = devices.threads()
        calls = 1 if self._alone else cores
        settings = {
            "INFERENCE_PRECISION_HINT": "f32",  # else processors with bfloat16 use it unasked, and two machines differ
            "NUM_STREAMS": str(calls),
            "INFERENCE_NUM_THREADS": str(cores),
            "ENABLE_CPU_PINNING": "NO",  # other threads, and other programs, need the cores too
        }
        compiled = openvino_core().compile_model(model, "CPU", settings)
        free: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(calls):
            free.put(compiled.create_infer_request())
        return free
