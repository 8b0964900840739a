"""Fast as an ONNX graph, built in numpy from a checkpoint's tensors: the same stages as ``network``, without PyTorch.

The graph maps one tile to one tile. Parameters of the shot are inputs of the graph (an exported file), or constants
(``bound``): then onnxruntime folds the steering into the weights of the convolutions. Pixels are worked
on as four phases, the sites of the 2×2, each of half size; RGB is (4, 3, h, w), or (1, 12, h, w) by phase.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from paramisp_cli import color, mosaic
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.models import optics
from paramisp_cli.models.fast import spec
from paramisp_cli.onnx_file import Graph
from paramisp_cli.rendition import form

Tensors = Mapping[str, np.ndarray]

_BY_PHASE = [4 * colour + phase for phase in range(4) for colour in range(3)]
"""Order of the network's 12 channels, colours before phases, with phases before colours."""
OPTICAL = tuple(optics.EQUALISATION)
"""Names of the values of the input ``optical``, in order."""
_SITES = (0, 1, 1, 2)
"""Colour of each phase: RGGB."""


def parameter_shapes() -> dict[str, tuple[int, ...]]:
    """Return the graph's inputs beside the pixels."""
    side = spec.THUMBNAIL
    return {
        "wb_gains": (3,),
        "cam_to_srgb": (3, 3),
        "optical": (len(OPTICAL),),
        "thumbnail": (1, 3, side, side),
    }


def pixels_in_and_out(direction: Direction) -> tuple[str, str]:
    """Return the names of the graph's input and output of pixels."""
    names = {Kind.SRGB: "picture", Kind.RAW: "mosaic"}
    return names[direction.input], names[direction.output]


class _Builder:
    """Adds the stages of one checkpoint to a graph. Arrays of values of the shot are graph values, named by strings."""

    def __init__(self, config: spec.Config, tensors: Tensors, bound: Mapping[str, np.ndarray]) -> None:
        self.config, self.tensors = config, tensors
        self.graph = Graph(f"fast_{config.direction}")
        self.op = self.graph.op
        taken, given = pixels_in_and_out(config.direction)
        channels = config.direction.input.channels
        self.pixels = self.graph.input(taken, (1, channels, "height", "width"))
        self.shot = {
            name: self.graph.constant(np.reshape(bound[name], shape))
            if name in bound
            else self.graph.input(name, shape)
            for name, shape in parameter_shapes().items()
        }
        self.rendition = form.Rendition(
            config.direction, np.eye(3), np.asarray(tensors["rendition.vector"], np.float64)
        )
        build = self._unprocess if config.direction == Direction.UNPROCESS else self._render
        self.graph.output(given, build(), (1, config.direction.output.channels, "height", "width"))

    # --- layers -------------------------------------------------------------------------------------------------------

    def linear(self, name: str, x: str) -> str:
        """Apply a linear layer to (1, n)."""
        return self.op("Gemm", x, *self.weights(name), transB=1)

    def weights(self, name: str) -> tuple[str, str]:
        """Return a layer's weight and bias; the channels of pixels at both ends of the network are by phase."""
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        if name == "net.stem":
            first = 0 if self.config.direction == Direction.UNPROCESS else 4
            order = np.arange(16)
            order[first : first + 12] = np.add(_BY_PHASE, first)
            weight = weight[:, order]
        if name == "net.tail" and len(weight) == 12:
            weight, bias = weight[_BY_PHASE], bias[_BY_PHASE]
        return self.graph.constant(weight), self.graph.constant(bias)

    def conv(self, name: str, x: str, stride: int = 1) -> str:
        """Apply a convolution; a 3×3 one is padded."""
        side = self.tensors[f"{name}.weight"].shape[-1]
        pad = (side - 1) // 2
        return self.op("Conv", x, *self.weights(name), kernel_shape=[side] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def doubled(self, x: str) -> str:
        """Repeat every sample in 2×2."""
        return self.op(
            "Resize", x, "", self.graph.constant([1.0, 1.0, 2.0, 2.0]),
            mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric",
        )  # fmt: skip

    def block(self, number: int, x: str, z: str) -> str:
        """Apply a residual block, steered by z."""
        name = f"net.blocks.{number}"
        width = len(self.tensors[f"{name}.conv1.bias"])
        steer = self.op("Reshape", self.linear(f"{name}.steer", z), self.shape(2, width, 1, 1))
        scale, shift = self.graph.split(steer, 0, 2)
        hidden = self.op("Mul", self.conv(f"{name}.conv1", x), self.op("Add", scale, 1.0))
        hidden = self.op("Relu", self.op("Add", hidden, shift))
        return self.op("Add", self.conv(f"{name}.conv2", hidden), x)

    def network(self, x: str, z: str) -> str:
        """Apply the U-Net to (1, 16, h, w)."""
        level1 = self.block(0, self.op("Relu", self.conv("net.stem", x)), z)
        level2 = self.block(1, self.op("Relu", self.conv("net.down1", level1, stride=2)), z)
        level3 = self.op("Relu", self.conv("net.down2", level2, stride=2))
        level3 = self.block(3, self.block(2, level3, z), z)
        level2 = self.block(4, self.op("Add", level2, self.doubled(self.conv("net.up2", level3))), z)
        level1 = self.block(5, self.op("Add", level1, self.doubled(self.conv("net.up1", level2))), z)
        return self.conv("net.tail", level1)

    def steering(self) -> str:
        """Compute the numbers (1, 32) that steer network and rendition."""
        wb, thumbnail = self.shot["wb_gains"], self.shot["thumbnail"]
        red_blue = self.op("Gather", wb, self.integers(0, 2), axis=0)
        z = self.linear("steering.balance", self.op("Unsqueeze", self.log2(red_blue), self.integers(0)))
        look = self.op("Relu", self.conv("steering.look.0", thumbnail, stride=2))
        look = self.op("Relu", self.conv("steering.look.2", look, stride=2))
        axes = [2, 3]
        mean = self.op("ReduceMean", thumbnail, axes=axes)
        away = self.op("Sub", thumbnail, mean)
        count = spec.THUMBNAIL**2
        variance = self.op("Mul", self.op("ReduceMean", self.op("Mul", away, away), axes=axes), count / (count - 1))
        spread = [
            mean,
            self.op("Sqrt", variance),
            self.op("ReduceMax", thumbnail, axes=axes),
            self.op("ReduceMin", thumbnail, axes=axes),
        ]
        gathered = self.op("Concat", self.op("ReduceMean", look, axes=axes), *spread, axis=1)
        z = self.op("Add", z, self.linear("steering.statistics", self.op("Flatten", gathered)))
        values = self.graph.split(self.shot["optical"], 0, len(OPTICAL))
        for name, value in zip(OPTICAL, values, strict=True):
            z = self.op("Add", z, self.linear(f"steering.optical.{name}", self.equalised(name, value)))
        return self.op("Relu", self.linear("steering.mlp.1", self.op("Relu", z)))

    def equalised(self, name: str, value: str) -> str:
        """Equalise an optical parameter (1,) → (1, 15); ``optics.equalise`` explains the numbers."""
        (hi, lo), (p, q), c = optics.EQUALISATION[name]
        u, w, log = self.op("Div", value, float(hi)), self.op("Div", value, float(lo)), self.log2(value)
        powers = [
            self.op("Pow", base, power)
            for base, power in ((u, 1.0), (u, 0.5), (u, 0.25), (w, -1.0), (w, -0.5), (w, -0.25))
        ]
        angles = [log, *(self.op("Div", value, float(ci)) for ci in c)]
        waves = [self.op(function, angle) for angle in angles for function in ("Sin", "Cos")]
        centred = self.op("Div", self.op("Sub", log, float(p)), float(q))
        return self.op("Unsqueeze", self.op("Concat", *powers, centred, *waves, axis=0), self.integers(0))

    # --- rendition ----------------------------------------------------------------------------------------------------

    def light_gain(self, z: str) -> str:
        """Return the gain (3,) between balanced light and the curves, adjusted by the steering."""
        adjust = self.op("Mul", self.op("Tanh", self.linear("adjust", z)), spec.MOST_ADJUSTED)
        return self.op("Reshape", self.op("Mul", self.op("Exp", adjust), self.rendition.gain), self.shape(3))

    def turned(self, encoded: str) -> str:
        """Add the chroma polynomial to (4, 3, h, w)."""
        red, green, blue = self.graph.split(encoded, 1, 3)
        p, q = self.op("Sub", red, green), self.op("Sub", blue, green)
        m = self.op("Add", green, self.op("Mul", self.op("Add", p, q), 0.25))
        p, q = self.op("Clip", p, -form.VIVID, form.VIVID), self.op("Clip", q, -form.VIVID, form.VIVID)
        pm, qm = self.op("Mul", p, m), self.op("Mul", q, m)
        squares = self.op("Mul", p, p), self.op("Mul", p, q), self.op("Mul", q, q)
        terms = [encoded, p, q, pm, qm, *squares, self.op("Mul", pm, m), self.op("Mul", qm, m)]
        coefficients = np.concatenate([np.eye(3), self.rendition.chroma], 1)
        return self.matrix(self.op("Concat", *terms, axis=1), self.graph.constant(coefficients))

    def matrix(self, x: str, matrix: str, batch: int = 4) -> str:
        """Multiply the colours of (batch, n, h, w) by a matrix (3, n); a convolution of few channels takes longer."""
        flat = self.op("MatMul", matrix, self.op("Reshape", x, self.shape(0, 0, -1)))
        sides = self.op("Slice", self.op("Shape", x), self.integers(2), self.integers(4))
        return self.op("Reshape", flat, self.op("Concat", self.integers(batch, 3), sides, axis=0))

    def looked_up(self, place: str, table: np.ndarray) -> str:
        """Look up (4, 3, h, w) ≥ 0, in table intervals, in a curve for each channel (3, n + 1), straight beyond it."""
        count = table.shape[1] - 1
        index = self.op("Cast", self.op("Min", place, count - 1.0), to=6)
        share = self.op("Sub", place, self.op("Cast", index, to=1))
        offset = self.graph.constant(np.array([0, count, 2 * count], np.int32).reshape(3, 1, 1))
        index = self.op("Add", index, offset)
        low, step = (self.taken(values, index) for values in (table[:, :-1], np.diff(table, axis=1)))
        return self.op("Add", low, self.op("Mul", step, share))

    def encoded(self, light: str) -> str:
        """Encode light ≥ 0 by the sRGB transfer function: a straight piece up to ``knee``, then a power."""
        knee = 0.0031308
        power = self.op("Exp", self.op("Mul", self.op("Log", self.op("Max", light, knee)), 1 / 2.4))
        straight = self.op("Mul", self.op("Min", light, knee), 12.92)
        curved = self.op("Add", self.op("Mul", power, 1.055), -0.055 - 12.92 * knee)
        return self.op("Add", straight, curved)

    def taken(self, table: np.ndarray, index: str) -> str:
        """Take values of a table, flattened, at integers of any shape; onnxruntime's Gather is much slower."""
        flat = self.op("Reshape", index, self.integers(-1))
        return self.op(
            "Reshape", self.op("GatherElements", self.graph.constant(table.ravel()), flat), self.op("Shape", index)
        )

    def trust(self, small: str) -> str:
        """Return the share (1, 1, h, w) of a correction that the network may apply, by input colours (1, 3, h, w)."""
        table = np.asarray(self.tensors["rendition.trusted"], np.float64)  # by blue, green and red
        cells = len(table) - 1
        for axis in range(3):  # coefficients of 1 and of the place in a cell, for each axis
            low, high = np.take(table, range(cells), axis), np.take(table, range(1, cells + 1), axis)
            table = np.stack([low, high - low], axis=-1)
        place = self.op("Mul", small, float(cells))
        index = self.op("Floor", self.op("Min", place, cells - 1.0))
        share = self.op("Sub", place, index)
        strides = np.array([1, cells, cells * cells], np.float32).reshape(1, 3, 1, 1)
        cell = self.op("Conv", index, self.graph.constant(strides), kernel_shape=[1, 1])
        cell = self.op("Cast", cell, to=6)
        red, green, blue = self.graph.split(share, 1, 3)

        def value(*powers: int) -> str:
            """Evaluate by Horner's rule: coefficients of the given powers of blue, green, then red."""
            if len(powers) == 3:
                return self.taken(table[:, :, :, *powers], cell)
            place = (blue, green, red)[len(powers)]
            return self.op("Add", value(*powers, 0), self.op("Mul", place, value(*powers, 1)))

        return value()

    # --- the two directions -------------------------------------------------------------------------------------------

    def _unprocess(self) -> str:
        z = self.steering()
        colours = self.op("SpaceToDepth", self.pixels, blocksize=2)
        light_gain, wb = self.light_gain(z), self.shot["wb_gains"]
        mixing = self.graph.constant(self.rendition.correction)
        to_camera = self.op("Div", self.op("MatMul", self.inverse(self.shot["cam_to_srgb"]), mixing), light_gain)
        encoded = self.op("Clip", colours, 0.0, 1.0)
        turned = self.op("Relu", self.turned(self.op("Reshape", encoded, self.shape(4, 3, 0, 0))))
        top = 1 + float(np.abs(self.rendition.chroma).sum(1).max())
        table = np.linspace(0, top, int(np.ceil(top * spec.TABLE / form.TOP)) + 1)
        curves = color.srgb_decode(form.lifted_curves(self.rendition, table))
        light = self.looked_up(self.op("Mul", turned, (len(table) - 1) / top), curves)
        light = self.op("Reshape", light, self.shape(1, 12, 0, 0))
        rows = self.op("Gather", to_camera, self.integers(*_SITES), axis=0)
        camera = self.op("Conv", light, self.op("Unsqueeze", rows, self.integers(2, 3)), kernel_shape=[1, 1], group=4)
        camera = self.op("Relu", camera)
        white = color.srgb_decode(form.lifted_curves(self.rendition, np.ones(1)))
        whitest = self.op("MatMul", to_camera, self.graph.constant(white))
        least = self.op("Unsqueeze", wb, self.integers(1)) if self.config.full_white else 1.0
        whitest = self.by_site(self.op("Max", whitest, least))
        phases = self.op("Reshape", encoded, self.shape(4, 3, 0, 0))
        near = self.op("ReduceMin", phases, axes=[1], keepdims=0)
        near = self.op("Div", self.op("Sub", near, form.NEAR_WHITE), 1 - form.NEAR_WHITE)
        near = self.op("Unsqueeze", self.op("Relu", near), self.integers(0))
        lift = self.op("Mul", self.op("Mul", near, near), self.op("Relu", self.op("Sub", whitest, camera)))
        camera = self.op("Add", camera, lift)
        root = self.op("Sqrt", self.op("Add", camera, spec.FLOOR))
        change = self.network(self.op("Concat", colours, root, axis=1), z)
        small = self.op("ReduceMean", self.op("Reshape", colours, self.shape(4, 3, 0, 0)), axes=[0])
        share = self.trust(self.op("Clip", small, 0.0, 1.0))
        root = self.op("Relu", self.op("Add", root, self.op("Mul", change, share)))
        light = self.op("Sub", self.op("Mul", root, root), spec.FLOOR)
        return self.op("DepthToSpace", self.op("Div", light, self.by_site(wb)), blocksize=2)

    def _render(self) -> str:
        z = self.steering()
        light_gain, wb = self.light_gain(z), self.shot["wb_gains"]
        padded = self.op("Pad", self.pixels, self.integers(0, 0, 2, 2, 0, 0, 2, 2), mode="reflect")
        kernel = self.graph.constant(mosaic.packed_demosaic_kernel("RGGB")[_BY_PHASE])
        light = self.op("Conv", self.op("SpaceToDepth", padded, blocksize=2), kernel, kernel_shape=[3, 3])
        gains = self.op("Reshape", self.op("Gather", wb, self.integers(*[0, 1, 2] * 4), axis=0), self.shape(12, 1, 1))
        light = self.op("Clip", self.op("Mul", light, gains), 0.0, 1.0)
        light = self.op("Reshape", light, self.shape(4, 3, 0, 0))
        mixing = self.graph.constant(self.rendition.correction)
        matrix = self.op(
            "Mul",
            self.op("MatMul", mixing, self.shot["cam_to_srgb"]),
            self.op("Unsqueeze", light_gain, self.integers(1)),
        )
        light = self.op("Relu", self.matrix(light, matrix))
        curves = form.lifted_curves(self.rendition, np.linspace(0, form.TOP, spec.TABLE + 1))
        place = self.op("Mul", self.encoded(light), spec.TABLE / form.TOP)
        encoded = self.op("Min", self.looked_up(place, curves), 1.0)
        shown = self.op("Reshape", self.op("Clip", self.turned(encoded), 0.0, 1.0), self.shape(1, 12, 0, 0))
        sites = self.op("Mul", self.op("SpaceToDepth", self.pixels, blocksize=2), self.by_site(wb))
        root = self.op("Sqrt", self.op("Add", self.op("Relu", sites), spec.FLOOR))
        change = self.network(self.op("Concat", root, shown, axis=1), z)
        means = np.array([[1, 0, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])
        small = self.op("Clip", self.matrix(sites, self.graph.constant(means), 1), 0.0, 1.0)
        share = self.trust(self.op("Sqrt", small))
        return self.op("DepthToSpace", self.op("Add", shown, self.op("Mul", change, share)), blocksize=2)

    # --- small values -------------------------------------------------------------------------------------------------

    def by_site(self, rgb: str) -> str:
        """Return values by colour, (3,) or (3, 1), for the four sites: (4, 1, 1)."""
        flat = self.op("Reshape", rgb, self.shape(3))
        return self.op("Reshape", self.op("Gather", flat, self.integers(*_SITES), axis=0), self.shape(4, 1, 1))

    def inverse(self, matrix: str) -> str:
        """Invert a matrix (3, 3) by its rows' cross products."""
        ahead, behind = self.integers(1, 2, 0), self.integers(2, 0, 1)
        one, two = (self.op("Gather", matrix, order, axis=0) for order in (ahead, behind))
        products = [
            self.op("Mul", self.op("Gather", one, left, axis=1), self.op("Gather", two, right, axis=1))
            for left, right in ((ahead, behind), (behind, ahead))
        ]
        cross = self.op("Sub", *products)
        volume = self.op("ReduceSum", self.op("Mul", matrix, cross), self.integers(1), keepdims=1)
        return self.op("Transpose", self.op("Div", cross, volume), perm=[1, 0])

    def log2(self, value: str) -> str:
        """Return the binary logarithm."""
        return self.op("Div", self.op("Log", value), float(np.log(2)))

    def shape(self, *sides: int) -> str:
        """Return a shape for Reshape; 0 keeps a side."""
        return self.integers(*sides)

    def integers(self, *values: int) -> str:
        """Return a constant of integers."""
        return self.graph.constant(np.array(values, np.int64))


def build(
    config: spec.Config,
    tensors: Tensors,
    bound: Mapping[str, np.ndarray] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """Return the model as the bytes of an ONNX file; ``bound`` holds inputs (``parameter_shapes``) to fix."""
    return _Builder(config, tensors, bound or {}).graph.model(metadata or {}, "paramisp")
