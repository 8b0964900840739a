"""Exported ONNX files: valid, complete, the model of PyTorch through onnxruntime, and errors of one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paramisp_cli import onnx_export, weights
from paramisp_cli.directions import ISP_DIRECTIONS
from paramisp_cli.errors import ConfigError, FileAccessError, OutputExistsError, WeightsError
from paramisp_cli.models.base import Params
from paramisp_cli.models.fast import Fast, graph, spec
from paramisp_cli.onnx_file import Graph
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams, OpticalParams

WEIGHTS = Path(__file__).parents[1] / "weights"
MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])


def shot(cfa="RGGB"):
    return Params.of(CanonicalParams(cfa, 0, 1, (0.5, 1, 0.7), MATRIX), OpticalParams(800, 1 / 250, 2.8, 85))


def inputs(params):
    """The graph's inputs beside the pixels."""
    assert params.thumbnail is not None
    return {
        "wb_gains": params.wb_gains[0].numpy(),
        "cam_to_srgb": params.cam_to_srgb[0].numpy(),
        "optical": np.float32([getattr(params, name).item() for name in graph.OPTICAL]),
        "thumbnail": params.thumbnail.numpy(),
    }


def source(direction, height, width):
    """Numbers a little beyond [0, 1], and smooth ones with black and white."""
    torch.manual_seed(0)
    x = 1.1 * torch.rand(1, direction.input.channels, height, width) - 0.05
    x[:, :, : height // 2] = torch.linspace(0, 1, width)
    return x


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def exported(tmp_path, model):
    path = weights.save(model, tmp_path / f"net.{model.direction}.safetensors", camera="A camera", licence="MIT")
    (file,) = onnx_export.export(path, tmp_path)
    return file


def trained(direction, **config):
    """A model of which every part has an effect."""
    torch.manual_seed(1)
    model = Fast(direction, **config).eval()
    for layer in (model.net.tail, model.adjust):
        nn.init.normal_(layer.weight, std=0.05)
    nn.init.uniform_(model.rendition.trusted, 0.1, 1)
    return model


@pytest.mark.parametrize("size", [(8, 8), (64, 96), (200, 304)], ids=str)
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_it_is_the_model_of_torch(direction, size, tmp_path):
    for number, config in enumerate(({}, {"widths": (8, 24, 40), "full_white": True})):
        (tmp_path / str(number)).mkdir()
        model = trained(direction, **config)
        x = source(direction, *size)
        params = model.surveyed(lambda a, b, x=x: x[:, :, a:b], size, shot())
        with torch.inference_mode():
            wanted = model(x, params).numpy()
        pixels, result = graph.pixels_in_and_out(direction)
        file = exported(tmp_path / str(number), model)
        (got,) = session(file).run([result], {pixels: x.numpy(), **inputs(params)})
        assert np.abs(got - wanted).max() <= 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({path.name for path in (WEIGHTS / "fast").glob("*.safetensors")}))
def test_shipped_weights(name, tmp_path):
    """The weights that users get, with parameters as inputs and as constants."""
    path = WEIGHTS / "fast" / name
    model = weights.load_model(path)
    x = source(model.direction, 96, 160)
    params = model.surveyed(lambda a, b: x[:, :, a:b], (96, 160), shot())
    with torch.inference_mode():
        wanted = model(x, params).numpy()
    pixels = graph.pixels_in_and_out(model.direction)[0]
    (file,) = onnx_export.export(path, tmp_path)
    bound = graph.build(*weights.load_arrays(path, spec.Config), bound=inputs(params))
    (free,) = session(file).run(None, {pixels: x.numpy(), **inputs(params)})
    (fixed,) = session(bound).run(None, {pixels: x.numpy()})
    assert np.abs(free - wanted).max() <= 2e-5
    assert np.abs(fixed - wanted).max() <= 2e-5


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_the_stated_padding_and_tiles(direction, cfa, tmp_path):
    """The rules of the metadata, followed by another program, give the model's result for any size and CFA."""
    model, size = trained(direction), (150, 214)
    x = source(direction, *size)
    params = model.surveyed(lambda a, b: x[:, :, a:b], size, shot(cfa))
    with torch.inference_mode():
        wanted = model(x, params).numpy()
    run = session(exported(tmp_path, model))
    about = run.get_modelmeta().custom_metadata_map
    multiple, halo = int(about["multiple"]), int(about["halo"])
    below, right = (-side % multiple for side in size)
    padded = F.pad(x, (0, right, 0, below), mode="reflect")
    top, left = divmod(cfa.index("R"), 2)
    padded = F.pad(padded, (left, left and multiple - left, top, top and multiple - top), mode="reflect").numpy()
    pixels = graph.pixels_in_and_out(direction)[0]

    def call(part):
        return run.run(None, {pixels: np.ascontiguousarray(part), **inputs(params)})[0]

    whole = call(padded)
    assert np.abs(whole[..., top : top + size[0], left : left + size[1]] - wanted).max() <= 2e-5
    step = 80
    for begin in range(0, padded.shape[2], step):
        first, last = max(begin - halo, 0), begin + step + halo
        strip = call(padded[:, :, first:last])[:, :, begin - first : begin - first + step]
        assert np.abs(strip - whole[:, :, begin : begin + step]).max() <= 2e-5


@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_the_file_is_valid_and_describes_itself(direction, tmp_path):
    model = trained(direction, lens_shading=[[-0.1, 0, 0]] * 3)
    file = onnx.load(exported(tmp_path, model))
    onnx.checker.check_model(file, full_check=True)
    assert {opset.version for opset in file.opset_import} == {17}
    about = {entry.key: entry.value for entry in file.metadata_props}
    assert about["architecture"] == "fast"
    assert about["direction"] == direction
    assert about["camera"] == "A camera"
    assert about["licence"] == "MIT"
    assert (about["multiple"], about["halo"]) == ("8", "64")
    assert about["lens_shading"] == str([[-0.1, 0, 0]] * 3)
    described = {key.removeprefix("input.") for key in about if key.startswith("input.")}
    assert described == {value.name for value in file.graph.input}
    assert [f"output.{value.name}" for value in file.graph.output] == [k for k in about if k.startswith("output.")]
    sides = [dim.dim_param for dim in file.graph.input[0].type.tensor_type.shape.dim[2:]]
    assert sides == ["height", "width"]


def test_every_kind_of_attribute_and_number():
    """The protobuf encoder, against the reader of the ``onnx`` package."""
    made = Graph("g")
    x = made.input("x", (1, "n"))
    y = made.op("LeakyRelu", x, alpha=0.25)
    y = made.op("Add", y, made.constant(np.array([-1.5, 300])))
    made.output("y", made.op("Transpose", made.op("Cast", y, to=1), perm=[1, 0]), ("n", 1))
    made.constant(np.array([-(2**40), 2**40], np.int64))
    made.constant(np.int32(-7))
    read = onnx.load_from_string(made.model({"a": "ß", "empty": ""}, "p" * 300, "note"))
    assert {each.key: each.value for each in read.metadata_props} == {"a": "ß", "empty": ""}
    assert (read.producer_name, read.doc_string, read.ir_version) == ("p" * 300, "note", 8)
    numbers = [onnx.numpy_helper.to_array(each).tolist() for each in read.graph.initializer]
    assert numbers == [[-1.5, 300], [-(2**40), 2**40], -7]
    assert [onnx.helper.get_attribute_value(a) for node in read.graph.node for a in node.attribute] == [0.25, 1, [1, 0]]
    (got,) = session(made.model({})).run(None, {"x": np.float32([[-4, 2]])})
    assert got.tolist() == [[-2.5], [302]]


def test_the_shapes_of_a_checkpoint_are_those_of_torch():
    for config in ({}, {"widths": (8, 24, 40)}):
        for direction in ISP_DIRECTIONS:
            state = Fast(direction, **config).state_dict()
            assert spec.Config(direction, **config).shapes() == {key: tuple(t.shape) for key, t in state.items()}


def test_mistakes_are_one_line(tmp_path):
    for name in ("generic", "canon-eos-60d"):
        with pytest.raises(
            ConfigError, match=r"has both directions, and .* is one file; pass `direction`, or a folder"
        ):
            onnx_export.export(name, tmp_path / "one.onnx")
    (file,) = onnx_export.export("generic", tmp_path / "one.onnx", "render")
    with pytest.raises(OutputExistsError, match="exists already"):
        onnx_export.export("generic", file, "render")
    with pytest.raises(ConfigError, match="holds the network paramisp; only checkpoints of fast"):
        onnx_export.export(WEIGHTS / "paramisp" / "generic.render.safetensors", tmp_path)
    with pytest.raises(ConfigError, match="is for render, not for unprocess"):
        onnx_export.export(WEIGHTS / "fast" / "generic.render.safetensors", tmp_path, "unprocess")
    with pytest.raises(WeightsError, match="no such file or checkpoint"):
        onnx_export.export("nonsense", tmp_path)
    with pytest.raises(FileAccessError, match="cannot write it"):
        onnx_export.export("generic", tmp_path / "missing" / "one.onnx", "render")
