"""The page's modules against the package: parameters, EXIF, XMP, profiles, lossless JPEG and numbers, through node."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from paramisp_cli import cameras, mosaic, onnx_export, onnx_runner, white_balance
from paramisp_cli.formats import exif, icc, jpeg, ljpeg, provenance, tiff, tiles
from paramisp_cli.models.geometry import spans
from paramisp_cli.types import Camera, Metadata, OpticalParams, SrgbImage

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BRIDGE = "../../tests/web/bridge.mjs"


def of_bytes(data):
    return None if data is None else {"bytes": base64.b64encode(data).decode()}


def of_result(value):
    return base64.b64decode(value["bytes"])


@pytest.fixture(scope="module")
def node():
    """node([(module, function, arguments), …]) → results."""
    program = shutil.which("node")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("node is missing: .ci/run installs it")
        pytest.skip("node is missing")

    def call(calls):
        command = [program, str(HERE / "call.mjs")]
        done = subprocess.run(command, input=json.dumps(calls), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def build_script():
    spec = importlib.util.spec_from_file_location("web_build", ROOT / "web" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_fractions_are_those_of_the_dng_writer(node):
    choose = random.Random(1)
    numbers = [0.0, 1.0, -1.0, 1 / 3, 0.1, 1e-9, 2147483647.0, 1 / 125, 65535.5, -0.4419]
    numbers += [choose.uniform(-3, 3) * 10 ** choose.randint(-6, 5) for _ in range(500)]
    results = node([("tiff.js", "fraction", [number]) for number in numbers])
    for number, result in zip(numbers, results, strict=True):
        assert tuple(result) == tiff._fraction(number), number


def test_numbers_in_texts_are_those_of_python(node):
    numbers = [(x / 16, d) for x in range(-64, 64) for d in (0, 1, 2)] + [(0.05, 1), (0.15, 1), (12.25, 1), (2.675, 2)]
    results = node([("python.js", "fixed", list(each)) for each in numbers])
    for (number, digits), result in zip(numbers, results, strict=True):
        assert float(result) == float(f"{number:.{digits}f}"), (number, digits)


def test_json_is_that_of_python(node):
    facts = {"a": None, "b": '± 0.1 “x” \\ " \n\x7f\U0001f4f7', "c": {"d": 0.0, "e": 1.5}, "f": {}}
    assert node([("python.js", "json", [facts])]) == [json.dumps(facts)]


@pytest.mark.slow
def test_facts_and_white_balance_of_every_camera(node):
    shots = [
        OpticalParams(),
        OpticalParams(100, 1 / 500, 8.0, 50),
        OpticalParams(3200, 1 / 15, 1.8, 35),
        OpticalParams(400, 1 / 60, 4.0, 28),
    ]
    blocks = [None] + [
        exif.build({}, {tag: tiff.short(value)}, {}) for tag, value in ((0x9208, 3), (0x9209, 1), (0xA403, 1))
    ]
    known = [Camera(c.exif_make, model) for c in cameras.all_cameras() for model in (c.exif_model, *c.aliases)]
    known += [Camera("", c.exif_model) for c in cameras.all_cameras()[::7]]
    known += [None, Camera("Nobody", "X-1"), Camera("canon", "eos 350d digital"), Camera("RICOH", "PENTAX K-3")]
    cases = [(c, shots[n % 4], blocks[n // 4 % 4 if n % 3 else 0]) for n, c in enumerate(known)]
    calls = [(BRIDGE, "load", [build_script().camera_table()])]
    names = ("iso", "exposure_time", "f_number", "focal_length")
    for camera, shot, block in cases:
        own = None if camera is None else {"make": camera.make, "model": camera.model}
        calls.append((BRIDGE, "facts", [own, {name: getattr(shot, name) for name in names}, of_bytes(block)]))
    _, *results = node(json.loads(json.dumps(calls)))
    picture = np.zeros((2, 2, 3), np.uint8)
    for (camera, shot, block), (name, black, white, neutral, origin) in zip(cases, results, strict=True):
        facts = cameras.find(camera)
        assert name == (facts.name if facts else None), camera
        assert (black, white) == (facts or cameras.GENERIC).levels(shot.iso), camera
        wanted = white_balance.of_picture(SrgbImage(picture, metadata=Metadata(exif=block)), facts, shot)
        np.testing.assert_allclose(neutral, wanted.neutral, rtol=1e-12)
        assert origin == wanted.origin, camera


def blocks_of(folder):
    for path in sorted(folder.glob("*.JPG")):
        block = jpeg.exif_block(path.read_bytes())
        if block:
            yield path.name, block


def test_values_of_exif(node, shared):
    found = dict(blocks_of(shared / "jpegs"))
    assert len(found) > 5
    made = {tag: tiff.short(value) for tag, value in ((34855, 65535), (34866, 200), (0xA001, 2))}
    found["apex"] = exif.build({0x0112: tiff.short(6)}, made | {37377: tiff.srational(7.0)}, {})
    found["absurd"] = exif.build({0x0112: tiff.short(9)}, {33434: tiff.rational(0), 34855: tiff.short(0)}, {})
    results = node([(BRIDGE, "values", [of_bytes(block)]) for block in found.values()])
    for (name, content), result in zip(found.items(), results, strict=True):
        block = exif.parse(content)
        optical, notes = exif.optical_params(block)
        camera, neutral = exif.camera(block), exif.white_balance(block)[0]
        assert result[0] == {n: getattr(optical, n) for n in ("iso", "exposure_time", "f_number", "focal_length")}, name
        assert result[1] == len(notes), name
        assert result[2:4] == [
            camera and {"make": camera.make, "model": camera.model},
            camera and camera.name,
        ], name
        assert result[4:6] == [exif.orientation(block), exif.color_space(block)], name
        assert result[6] == (None if neutral is None else neutral.tolist()), name


RDF = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
SPACES = (
    f'{RDF} xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/" xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
    'xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"'
)
EVENT = '<rdf:li rdf:parseType="Resource"><stEvt:action>saved</stEvt:action></rdf:li>'
CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
PACKETS = {
    "none": None,
    "plain": f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF {SPACES}><rdf:Description rdf:about="uuid:&amp;é">'
    "</rdf:Description></rdf:RDF></x:xmpmeta>",
    "history": f"<rdf:RDF {SPACES}><rdf:Description><xmpMM:History><rdf:Seq>{EVENT}</rdf:Seq></xmpMM:History>"
    "</rdf:Description></rdf:RDF>",
    "history of an empty sequence": f"<rdf:RDF {SPACES}><rdf:Description><xmpMM:History><rdf:Seq/></xmpMM:History>"
    "</rdf:Description></rdf:RDF>",
    "empty history": f"<rdf:RDF {SPACES}><rdf:Description><xmpMM:History/></rdf:Description></rdf:RDF>",
    "source type": f"<rdf:RDF {SPACES}><rdf:Description><e:DigitalSourceType>{CAPTURE}</e:DigitalSourceType>"
    "</rdf:Description></rdf:RDF>\0\0",
    "source type as attribute": f"<rdf:RDF {SPACES}><rdf:Description e:DigitalSourceType='{CAPTURE}' rdf:about=''/>"
    "</rdf:RDF>",
    "generated": f'<rdf:RDF {SPACES}><rdf:Description e:DigitalSourceType="trainedAlgorithmicMedia"/></rdf:RDF>',
    "empty": f"<rdf:RDF {SPACES}/>",
    "comments": f"<!-- <a> --><rdf:RDF {SPACES}><rdf:Description><!-- > --><![CDATA[<b>&]]></rdf:Description>"
    "</rdf:RDF>",
    "cut": "<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF",
    "wrong end": f"<rdf:RDF {SPACES}></rdf:Description>",
    "doctype": f"<!DOCTYPE a [<!ENTITY b 'c'>]><rdf:RDF {SPACES}/>",
    "no rdf": "<a/>",
    "unbound": "<rdf:RDF/>",
    "lone ampersand": f"<rdf:RDF {SPACES}>a & b</rdf:RDF>",
}


def test_history_in_xmp(node):
    """The bytes of the packet are the same, damaged packets too."""
    facts = {"operation": "unprocess", "source": "JPEG", "data": provenance._ESTIMATE, "model": "fast", "exposure": 0.0}
    packets = {name: None if text is None else text.encode() for name, text in PACKETS.items()}
    packets["not UTF-8"] = b"<a>\xff</a>"
    software = f"paramisp {provenance.__version__}"
    results = node([("xmp.js", "unprocessed", [of_bytes(p), software, facts]) for p in packets.values()])
    how = {name: value for name, value in facts.items() if name not in ("operation", "source", "data")}
    for (name, packet), (content, notices) in zip(packets.items(), results, strict=True):
        wanted, remarks = provenance.unprocessed(packet, "JPEG", how)
        assert of_result(content) == wanted, name
        assert len(notices) == len(remarks), name


def test_colour_profiles(node):
    pixels = np.random.default_rng(1).integers(0, 256, (40, 30, 3), np.uint8)
    linear = icc.linear_srgb_profile()
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    cases = [(None, None), (None, "Adobe RGB"), (icc.srgb_profile(), "sRGB"), (linear, None), (b"damaged", None)]
    cases += [(linear[:200], None), (lab, None)]
    results = node([(BRIDGE, "converted", [of_bytes(pixels.tobytes()), of_bytes(c), s]) for c, s in cases])
    for (content, space), (data, notes) in zip(cases, results, strict=True):
        wanted, remarks = icc.to_srgb(pixels, content, space)
        got = np.frombuffer(of_result(data), wanted.dtype).reshape(wanted.shape)
        assert np.abs(got.astype(int) - wanted).max() <= 1  # of 65535: float32 sums
        assert len(notes) == len(remarks)


def test_a_profile_of_tables_is_refused(node):
    header = bytearray(icc.srgb_profile()[:128]) + bytes(4)
    (result,) = node([(BRIDGE, "converted", [of_bytes(bytes(3)), of_bytes(bytes(header)), None])])
    assert "made of tables" in result["error"]
    assert "paramisp unprocess" in result["error"]


@pytest.mark.parametrize("size", [(40, 64), (300, 516), (256, 512), (24, 24)], ids=str)
def test_lossless_tiles(node, size):
    height, width = size
    rng = np.random.default_rng(2)
    mosaic = (512 + 30000 * np.linspace(0, 1, width) ** 2 + rng.normal(0, 60, size)).astype(np.uint16)
    mosaic[: height // 3] = rng.integers(0, 65536, (height // 3, width))  # all categories
    across = tiles.tile_width_for(width)
    calls = [
        ("ljpeg.js", "tileWidthFor", [width]),
        ("ljpeg.js", "tiles", [{"uint16": of_bytes(mosaic.tobytes())["bytes"]}, height, width, across]),
    ]
    own, streams = node(calls)
    assert own == across
    book = tiles._codebook(mosaic)
    corners = [(top, left) for top in range(0, height, 256) for left in range(0, width, across)]
    for (top, left), stream in zip(corners, streams, strict=True):
        tile = tiles._padded(mosaic[top : top + 256, left : left + across], across)
        assert of_result(stream) == ljpeg.encode(tile, book=book), (top, left)


def test_digests(node):
    data = bytes(range(256)) * 3
    sizes = [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 700]
    results = node([("md5.js", "md5", [of_bytes(data[:size])]) for size in sizes])
    for size, result in zip(sizes, results, strict=True):
        assert of_result(result) == hashlib.md5(data[:size]).digest(), size


def test_kinds_of_jpegs(node, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8)
    contents = []
    for mode, options in (
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1}),
        ("RGB", {"subsampling": 2, "restart_marker_blocks": 1}),
        ("RGB", {"progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ):
        path = tmp_path / "a.jpg"
        Image.fromarray(pixels).convert(mode).save(path, "JPEG", **options)
        contents += [path.read_bytes(), path.read_bytes() + b"behind", path.read_bytes()[:-2]]
    calls = [("jpeg.js", name, [of_bytes(c)]) for c in contents for name in ("endOfPicture", "previewFrame")]
    results = node(calls)
    for number, content in enumerate(contents):
        end, frame = results[2 * number : 2 * number + 2]
        assert end == (jpeg.end_of_picture(content) or -1)
        wanted = jpeg.preview_frame(content)
        assert frame == (None if wanted is None else [*wanted[:2], list(wanted[2])])


def test_tiles_and_reflection(node):
    cases = [(size, length, 8, 64) for size in (8, 24, 136, 1000, 3024) for length in (8, 256, 872)]
    (result,) = node([(BRIDGE, "cuts", [cases])])
    for (size, length, multiple, halo), pieces in zip(cases, result, strict=True):
        assert [tuple(piece) for piece in pieces] == spans(size, length, multiple, halo, multiple)
    reflected = [(1, 0, 5), (2, 3, 7), (9, 0, 15), (24, 8, 8), (7, 30, 30)]
    results = node([("network.js", "reflectIndex", list(each)) for each in reflected])
    for each, result in zip(reflected, results, strict=True):
        assert np.frombuffer(of_result(result), np.int32).tolist() == mosaic.reflect_index(*each).tolist(), each


def test_the_thumbnail(node):
    pixels = np.random.default_rng(4).integers(0, 256, (37, 50, 3), np.uint8)
    rows, columns = mosaic.reflect_index(37, 0, 1), np.arange(50)
    (result,) = node([(BRIDGE, "averaged", [of_bytes(pixels.tobytes()), 50, rows.tolist(), columns.tolist()])])

    def survey(first, end):
        return pixels[rows[2 * first : 2 * end]].transpose(2, 0, 1).astype(np.float32) / np.float32(255)

    wanted = onnx_runner.OnnxRunner(None)._thumbnail((38, 50), survey, halved=False)
    np.testing.assert_allclose(np.reshape(result, (3, 16, 16)), wanted, atol=1e-6)


def test_a_gpu_counts_only_if_it_is_exact(node, tmp_path):
    """A tile on the CPU tells: half a code of 1000 is 0.0005."""
    (file,) = onnx_export.export("generic", tmp_path, "unprocess")
    model = of_bytes(file.read_bytes())
    exact, near, wrong, broken = node([(BRIDGE, "onGpu", [model, 0.5, error]) for error in (0, 4e-4, 0.01, None)])
    assert exact == ["WebGPU", [], 30, 40, [600]]
    assert near[0] == "WebGPU"
    assert wrong == ["WASM", ["WebGPU was off by 10.0 codes: used WASM"], 30, 40, [600]]
    assert broken == ["WASM", ["WebGPU failed (device lost): used WASM"], 30, 40, [600]]


@pytest.mark.slow
def test_values_of_the_shot_become_constants(node, tmp_path):
    """onnxruntime computes with the bound graph as with the same values as inputs."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (file,) = onnx_export.export("generic", tmp_path, "unprocess")
    rng = np.random.default_rng(5)
    values = {
        "wb_gains": np.float32([2, 1, 1.5]),
        "cam_to_srgb": np.eye(3, dtype=np.float32),
        "optical": np.float32([50, 4, 0.01, 100]),
        "thumbnail": rng.random((1, 3, 16, 16), np.float32),
    }
    bound = {name: [list(value.shape), value.ravel().tolist()] for name, value in values.items()}
    (content, missing) = node(
        [
            ("onnx.js", "bind", [of_bytes(file.read_bytes()), bound]),
            ("onnx.js", "bind", [of_bytes(file.read_bytes()), {"other": [[1], [0]]}]),
        ]
    )
    assert missing == {"error": "the model has no input other"}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    free, fixed = (
        onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        for model in (file.read_bytes(), of_result(content))
    )
    assert [each.name for each in fixed.get_inputs()] == ["picture"]
    picture = rng.random((1, 3, 32, 48), np.float32)
    wanted, got = free.run(None, {"picture": picture, **values})[0], fixed.run(None, {"picture": picture})[0]
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert np.ptp(got) > 0.01
