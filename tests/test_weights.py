"""Checkpoints: strictness, the search, published files, and that nothing hostile in one ever runs."""

import argparse
import contextlib
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from paramisp_cli import torch_zip, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.models.paramisp import ParamISP, published
from paramisp_cli.types import Camera


def network(direction="unprocess", seed=0, **config):
    torch.manual_seed(seed)
    return ParamISP(direction, **config).eval()


@pytest.fixture
def saved(tmp_path):
    return weights.save(
        network(), tmp_path / "gopro-hero7-black.unprocess.safetensors", camera="GoPro HERO7 Black", recipe="short",
        training={"images": 3}, metrics={"psnr": 40.5}, licence="MIT", source_hash="abc",
    )  # fmt: skip


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path):
    """Keep the machine's own weights out of the tests."""
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.setattr(weights, "places", lambda: [("user data folder", tmp_path / "user")])
    monkeypatch.setattr(weights, "user_folder", lambda: tmp_path / "user")


def changed(path, tensors=None, header=None):
    """Write the checkpoint again with changed tensors (None removes) and header entries."""
    now = load_file(path) | (tensors or {})
    save_file({k: v for k, v in now.items() if v is not None}, path, weights.info(path) | (header or {}))
    return path


# --- header, save, load -----------------------------------------------------------------------------------------------


def test_the_header_says_everything(saved):
    header = weights.info(saved)
    assert set(weights.HEADER) <= set(header)
    assert header["camera"] == "GoPro HERO7 Black"
    assert header["direction"] == "unprocess"
    assert header["color_matrix_row_sum"] == ""  # our own rule; a number only for weights trained otherwise
    assert json.loads(header["metrics"]) == {"psnr": 40.5}
    assert json.loads(header["config"])["direction"] == "unprocess"
    assert weights.verify(saved) == header
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]  # no temporary file left


def test_load_gives_the_same_model(saved):
    model, again = network(), weights.load(saved)
    assert isinstance(again, ParamISP)
    assert not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())


def test_float16_storage_is_widened(saved):
    changed(saved, {k: v.half() for k, v in load_file(saved).items()})
    assert {v.dtype for v in weights.load(saved).state_dict().values()} == {torch.float32}


TAIL = "localnet.tail.bias"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tensors", "header", "message"),
    [
        ({TAIL: None}, {}, "lacks tensors of .*: localnet.tail.bias"),
        ({"extra": torch.zeros(1)}, {}, "does not have: extra"),
        ({TAIL: torch.zeros(4)}, {}, r"shape \(4,\).*\(3,\)"),
        ({TAIL: torch.tensor([0, float("nan"), 0])}, {}, "not finite"),
        ({TAIL: torch.tensor([0, float("inf"), 0])}, {}, "not finite"),
        ({TAIL: torch.zeros(3, dtype=torch.int32)}, {}, "int32"),
        ({TAIL: torch.zeros(3, dtype=torch.bfloat16)}, {}, "bfloat16"),
        ({}, {"architecture": "resnet"}, "resnet.*paramisp, parametric"),
        ({}, {"format_version": "2"}, "format version '2'"),
        ({}, {"direction": "sideways"}, "sideways"),
        ({}, {"direction": "render"}, "contradicts"),
        ({}, {"config": "{"}, "configuration"),
        ({}, {"config": '{"direction": "unprocess", "layers": 3}'}, "configuration.*layers"),
    ],
)
def test_load_is_strict(saved, tensors, header, message):
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load(changed(saved, tensors, header))
    assert str(saved) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cut", [0, 4, 8, 100, 5000, -1])
def test_truncated_files(saved, cut):
    saved.write_bytes(saved.read_bytes()[:cut])
    with pytest.raises(WeightsError, match="damaged"):
        weights.load(saved)


@pytest.mark.parametrize(
    "content", [b"\xff" * 64, b"\x02" + bytes(7) + b"[]", b"\x05" + bytes(7) + b"{bad}", b"PK\3\4" * 9]
)
def test_not_a_checkpoint(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"damaged|not a paramisp"):
        weights.load(path)


def test_missing_file_and_foreign_safetensors(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        weights.load(tmp_path / "none.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(WeightsError, match="not a paramisp checkpoint"):
        weights.info(tmp_path / "foreign.safetensors")


def test_verify_finds_useless_weights(saved):
    changed(saved, {"globalnet.last.0.bias": torch.full((39,), 1e30)})
    with pytest.raises(WeightsError, match="are unusable"):
        weights.verify(saved)


def test_no_torch_until_it_is_needed(saved):
    code = (
        "import sys, paramisp_cli.weights as w; from pathlib import Path\n"
        "w.available(); w.info(Path(sys.argv[1])); w.find('x', 'render')\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(saved)], check=True)


# --- the search -------------------------------------------------------------------------------------------------------


def put(root, name, direction="unprocess", architecture="paramisp"):
    model = Parametric(Direction(direction))
    path = weights.save(model, root / architecture / f"{name}.{direction}.safetensors", camera=name)
    return changed(path, header={"architecture": architecture})


def test_slug_and_candidates():
    assert weights.slug("GoPro HERO7 Black") == "gopro-hero7-black"
    assert weights.candidates(Camera("NIKON CORPORATION", "NIKON D7000")) == [
        "nikon-d7000",
        "nikon-corporation-nikon-d7000",
    ]
    assert weights.candidates(["A b", "a-B", ""]) == ["a-b"]
    assert weights.candidates(None) == []


def test_search_order(monkeypatch, tmp_path):
    env, checkout, user = (tmp_path / name for name in ("env", "checkout", "user"))
    monkeypatch.setattr(weights, "places", lambda: [("$PARAMISP_WEIGHTS", env), ("checkout", checkout), ("user", user)])
    env.mkdir()
    assert weights.find("d90", "unprocess") is None
    generic = put(checkout, "generic")
    found = weights.find(["d90", "nikon-d90"], "unprocess")
    assert found == weights.Found(generic, "generic", "checkout")
    assert found.is_generic
    assert weights.find("d90", "unprocess", generic=False) is None
    assert weights.find("d90", "render") is None
    own = put(user, "nikon-d90")
    assert weights.find(["d90", "Nikon D90"], "unprocess").path == own  # the camera's own beats an earlier generic
    first = put(env, "nikon-d90")
    assert weights.find(["d90", "Nikon D90"], "unprocess").path == first
    other = put(env, "nikon-d90", architecture="another")
    assert weights.find("nikon d90", "unprocess").path == first
    assert weights.find("nikon d90", "unprocess", "another").path == other


def test_explicit_file_wins_and_must_fit(saved, tmp_path):
    found = weights.find("d90", "unprocess", explicit=saved)
    assert (found.path, found.how) == (saved, "--weights")
    with pytest.raises(WeightsError, match="render is needed"):
        weights.find("d90", "render", explicit=saved)
    with pytest.raises(WeightsError, match="does not exist"):
        weights.find("d90", "render", explicit=tmp_path / "no.safetensors")
    with pytest.raises(WeightsError, match="no checkpoint"):
        weights.find("d90", "render", explicit=tmp_path)
    assert weights.find("GoPro HERO7 Black", "unprocess", explicit=tmp_path).path == saved  # a folder of loose files


def test_environment_is_read(monkeypatch, saved):
    monkeypatch.undo()
    monkeypatch.setenv(weights.ENVIRONMENT, str(saved))
    assert weights.places()[0] == ("$PARAMISP_WEIGHTS", saved)
    assert weights.find("anything", "unprocess").path == saved
    assert "checkout" in dict(weights.places())


def test_a_damaged_file_is_listed_with_the_reason(tmp_path):
    good = put(tmp_path / "user", "good")
    bad = good.with_name("bad.render.safetensors")
    bad.write_bytes(b"nonsense")
    listed = {c.path: c for c in weights.available()}
    assert listed[good].damaged is None
    assert listed[good].header["camera"] == "good"
    assert "damaged" in listed[bad].damaged


def test_load_model_by_name(tmp_path):
    assert isinstance(weights.load_model("parametric", "render"), Parametric)
    with pytest.raises(ConfigError, match="direction"):
        weights.load_model("parametric")
    put(tmp_path / "user", "generic", architecture="parametric")
    put(tmp_path / "user", "nikon-d90", architecture="parametric")
    assert weights.load_model("Nikon D90", "unprocess").direction == Direction.UNPROCESS
    assert weights.load_model("generic", Direction.UNPROCESS).name == "parametric"
    with pytest.raises(WeightsError, match=r"Canon.*generic.unprocess, nikon-d90.unprocess"):
        weights.load_model("Canon 5D", "unprocess")


# --- published checkpoints --------------------------------------------------------------------------------------------


def published_state(model, prefix=""):
    """The tensors of a network under their published names, with everything that an import must drop."""
    ours = model.state_dict()
    state = {}
    for theirs, module in published.NAMES.items():
        for kind in ("weight", "bias"):
            state[f"{theirs}.{kind}"] = ours[f"{module}.{kind}"]
    for key in list(state):
        if key.startswith("tonenet."):
            state[f"hypertonenet.target.{key.removeprefix('tonenet.')}"] = state[key]
        if key.startswith("localnet."):
            state[f"hyperlocalnet.target.{key.removeprefix('localnet.')}"] = state[key]
    state |= {"demosaic.kernels": torch.rand(4, 1, 5, 5), "demosaic.indices_rggb": torch.arange(12).view(1, 3, 2, 2)}
    state |= {"embed_id.weight": torch.rand(64, 16), "embed_id.bias": torch.rand(64), "ms_ssim_loss.w": torch.ones(1)}
    return OrderedDict((prefix + key, value) for key, value in state.items())


def checkpoint(path, state, inverse=True, protocol=2, **more):
    """A file as Lightning writes it; ``inverse`` None leaves the direction out."""
    hyper = argparse.Namespace() if inverse is None else argparse.Namespace(inverse=inverse, runs_root=path)
    content = {"epoch": 5, "state_dict": state, "callbacks": {}, "hyper_parameters": hyper} | more
    torch.save(content, path, pickle_protocol=protocol)
    return path


def same(a, b):
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("inverse", [True, False])
def test_import_of_a_published_checkpoint(tmp_path, inverse):
    model = network()
    path = checkpoint(tmp_path / "d7000.ckpt", published_state(model), inverse)
    (written,) = weights.import_checkpoint(path, tmp_path / "w", camera="Nikon D7000", licence="none")
    way = "unprocess" if inverse else "render"
    assert written == tmp_path / "w" / "paramisp" / f"nikon-d7000.{way}.safetensors"
    header = weights.info(written)
    assert (header["color_matrix_row_sum"], header["direction"], header["source"]) == ("3", way, "d7000.ckpt")
    assert len(header["source_hash"]) == 64
    loaded = weights.load(written)
    assert same(model, loaded)
    assert loaded.color_matrix_row_sum == 3
    assert loaded.config()["demosaic_border"] == "replicate"
    assert same(model, weights.load_model(path))


def test_the_decoder_is_renumbered():
    assert published.NAMES["localnet.resblks.8.conv1"] == "localnet.blocks.6.conv1"
    assert published.NAMES["localnet.resblks.6.conv1"] == "localnet.blocks.8.conv1"
    assert published.NAMES["localnet.conv_up.0"] == "localnet.up.1"
    assert len(set(published.NAMES.values())) == len(published.NAMES)


@pytest.mark.slow
def test_joint_checkpoints_hold_two(tmp_path):
    one, two = network("unprocess", 1), network("render", 2)
    state = published_state(one, "rgb2raw.") | published_state(two, "raw2rgb.")
    path = checkpoint(tmp_path / "joint.ckpt", state, None)
    files = weights.import_checkpoint(path, tmp_path, camera="Samsung Galaxy S7")
    assert [f.name for f in files] == [
        "samsung-galaxy-s7.unprocess.safetensors",
        "samsung-galaxy-s7.render.safetensors",
    ]
    assert same(one, weights.load(files[0]))
    assert same(two, weights.load(files[1]))
    assert weights.info(files[0])["color_matrix_row_sum"] == "1"
    assert same(two, weights.load_model(path, "render"))
    with pytest.raises(ConfigError, match="both directions"):
        weights.load_model(path)


def test_direction_and_row_sum_must_be_known(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt", published_state(network()), None)
    with pytest.raises(ConfigError, match="does not state its direction"):
        weights.load_model(path)
    assert weights.load_model(path, "render").direction == Direction.RENDER
    with pytest.raises(ConfigError, match="color_matrix_row_sum"):
        weights.import_checkpoint(path, tmp_path, camera="Fuji X100", direction="render")
    (written,) = weights.import_checkpoint(
        path, tmp_path, camera="Fuji X100", direction="render", color_matrix_row_sum=1
    )
    assert weights.load(written).color_matrix_row_sum == 1
    told = checkpoint(tmp_path / "b.ckpt", published_state(network()), True)
    with pytest.raises(WeightsError, match="render is needed"):
        weights.load_model(told, "render")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"localnet.conv_tail.bias": None}, "misses|repeat"),
        ({"embed_color.bias": None}, "lacks 1 .*embed_color.bias"),
        ({"tonenet.extra": torch.zeros(1)}, "does not have: tonenet.extra"),
        ({"discriminator.weight": torch.zeros(1)}, "discriminator"),
        ({"hypertonenet.target.fcs.0.bias": torch.zeros(64)}, "differs"),
        ({"embed_color.bias": torch.zeros(63)}, "shape"),
        ({"embed_color.bias": torch.full((64,), float("nan"))}, "not finite"),
        ({"embed_color.bias": "text"}, "not a tensor"),
        ({"embed_color.bias": torch.zeros(64, dtype=torch.bfloat16)}, "such as bfloat16; save it as float32"),
    ],
)
def test_import_is_strict(tmp_path, change, message):
    state = {k: v for k, v in (published_state(network()) | change).items() if v is not None}
    with pytest.raises(WeightsError, match=message):
        weights.load_model(checkpoint(tmp_path / "a.ckpt", state))


def test_other_files_are_refused(tmp_path):
    legacy = tmp_path / "legacy.ckpt"
    torch.save({"state_dict": {}}, legacy, _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"unknown architecture \(known: paramisp, invisp"):
        weights.load_model(legacy)
    legacy.write_bytes(b"\x80\x02}q\0." + bytes(20))  # a pickle, but not torch's
    with pytest.raises(WeightsError, match=r"is not a file of torch\.save: it begins with 80 02 7d 71"):
        weights.load_model(legacy)
    with zipfile.ZipFile(tmp_path / "z.ckpt", "w") as archive:
        archive.writestr("readme", "x")
    with pytest.raises(WeightsError, match="torch did not write it"):
        weights.load_model(tmp_path / "z.ckpt")
    others = ([1, 2], "it is no dictionary"), ({"w": 1, "z" * 99: 2}, f"its keys are w, {'z' * 60}…"), ({}, "it is no ")
    for saved, has in others:
        torch.save(saved, tmp_path / "c.ckpt")
        with pytest.raises(WeightsError, match=f"no state_dict of named tensors: {has}"):
            weights.load_model(tmp_path / "c.ckpt")
    with pytest.raises(WeightsError, match=r"is a published checkpoint: `paramisp weights import` converts it"):
        weights.info(tmp_path / "c.ckpt")
    for head, tool in ((b"BZh91AY", "bunzip2"), (b"\x1f\x8b\x08", "gunzip"), (b"\xfd7zXZ\0", "unxz")):
        (tmp_path / "c.ckpt").write_bytes(head + bytes(99))
        with pytest.raises(WeightsError, match=f"is compressed: run {tool} first"):
            weights.load_model(tmp_path / "c.ckpt")
    good = checkpoint(tmp_path / "g.ckpt", published_state(network())).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(good[: len(good) // 2])
    with pytest.raises(WeightsError, match="damaged"):
        weights.load_model(tmp_path / "cut.ckpt")
    with pytest.raises(WeightsError, match="does not exist"):
        weights.load_model(tmp_path / "none.ckpt")


def test_files_that_are_none(tmp_path):
    """A pipe would wait for a writer, and a huge file take all memory."""
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "huge.pth").touch()
    os.truncate(tmp_path / "huge.pth", 40 << 30)
    for name, message in (("pipe", "is no regular file"), ("huge", "has 42.9 GB, and a checkpoint at most 1.1")):
        with pytest.raises(WeightsError, match=message):
            weights.load_model(tmp_path / f"{name}.pth")


def test_headers_have_one_order(tmp_path):
    """The library shuffles the header, so that the hashes of equal files would differ."""
    model, more = network(), {"z": "1", "a": "ä"}
    files = [weights.save(model, tmp_path / f"{i}.safetensors", camera="A B", extra=more) for i in range(3)]
    assert len({path.read_bytes() for path in files}) == 1
    keys = list(weights.info(files[0]))
    assert keys[: len(weights.HEADER)] == list(weights.HEADER)
    assert (weights.info(files[0])["a"], keys[-1]) == ("ä", "z")
    weights.verify(files[0])


def rewritten(path, change):
    """The zip file again, members stored, each passed through change(name, bytes) → (bytes, compression)."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            content, compression = change(name, data)
            archive.writestr(name, content, compression)
    return path


@pytest.mark.slow
def test_bombs_and_absurd_sizes(tmp_path):
    path = checkpoint(tmp_path / "a.ckpt", published_state(network()))
    stored, deflated = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    rewritten(path, lambda _, data: (data, stored))
    weights.load_model(path)
    rewritten(path, lambda name, data: (data, deflated if "/data/" in name else stored))
    with pytest.raises(WeightsError, match="data/0 is compressed, so torch did not write it"):
        weights.load_model(path)
    rewritten(path, lambda name, data: (data, stored))
    rewritten(path, lambda name, data: (data[:-4] if "/data/" in name else data, stored))
    with pytest.raises(WeightsError, match="storage"):
        weights.load_model(path)
    rewritten(path, lambda name, data: (data * 9, deflated) if name.endswith("data.pkl") else (data, stored))
    with pytest.raises(WeightsError, match="torch did not write it"):
        weights.load_model(path)
    path = checkpoint(tmp_path / "b.ckpt", published_state(network()))
    huge_memo = b"\x80\x02}r\xff\xff\xff\x7f."  # LONG_BINPUT at index 2³¹ − 1: of an array of 16 GB in pickle's C code
    rewritten(path, lambda name, data: (huge_memo if name.endswith("data.pkl") else data, stored))
    with pytest.raises(WeightsError, match="no state_dict"):
        weights.load_model(path)


class Call:
    """Pickles as a call of any function."""

    def __init__(self, function, *args, state=None):
        self.how = (function, args) if state is None else (function, args, state)

    def __reduce__(self):
        return self.how


class WithState:
    def __getstate__(self):
        return {"inverse": False, "inner": Call(os.system, "touch PWNED")}

    def __setstate__(self, state):
        os.system("touch PWNED")


def hostile():
    run = "__import__('os').system('touch PWNED')"
    return [
        Call(os.system, "touch PWNED"),
        Call(eval, run),
        Call(exec, run),
        Call(getattr, Call(__import__, "os"), "system"),
        Call(Call, Call(os.system, "touch PWNED")),
        Call(os.system, "touch PWNED", state={"a": Call(eval, run)}),
        Call(subprocess.check_output, ["touch", "PWNED"]),
        WithState(),
        np.arange(3),
        {"nested": [(Call(eval, run), {"deep": WithState()})]},
    ]


@pytest.mark.parametrize("protocol", range(6))
def test_a_hostile_pickle_runs_nothing(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    data = pickle.dumps(hostile(), protocol)
    assert len(torch_zip.unpickle(data, "x")) == len(hostile())
    assert not (tmp_path / "PWNED").exists()
    with contextlib.suppress(Exception):
        pickle.loads(data)
    # It was live: the real unpickler runs it.
    assert (tmp_path / "PWNED").exists()


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("where", ["hyper_parameters", "top", "dropped", "args"])
def test_a_good_file_with_hostile_parts_is_imported_and_runs_nothing(tmp_path, monkeypatch, protocol, where):
    monkeypatch.chdir(tmp_path)
    model = network()
    state, more = published_state(model), {}
    if where == "hyper_parameters":
        more["hyper_parameters"] = argparse.Namespace(inverse=True, evil=hostile())
    elif where == "args":
        more["hyper_parameters"] = {"args": argparse.Namespace(inverse=True, evil=hostile())}
    elif where == "top":
        more |= {"callbacks": hostile(), "optimizer_states": Call(os.system, "touch PWNED")}
    else:
        state["demosaic.evil"] = hostile()
    path = checkpoint(tmp_path / "evil.ckpt", state, True, protocol, **more)
    loaded = weights.load_model(path)
    assert same(model, loaded)
    assert loaded.direction == Direction.UNPROCESS
    assert not (tmp_path / "PWNED").exists()


def test_a_hostile_tensor_is_an_error_and_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    state = published_state(network())
    state["embed_color.bias"] = Call(os.system, "touch PWNED")
    with pytest.raises(WeightsError, match="not a tensor"):
        weights.load_model(checkpoint(tmp_path / "evil.ckpt", state))
    assert not (tmp_path / "PWNED").exists()


def test_an_import_runs_like_the_original(tmp_path):
    model = network("render", demosaic_border="replicate")
    loaded = weights.load_model(checkpoint(tmp_path / "a.ckpt", published_state(model), inverse=False))
    one = torch.ones(1)
    params = Params(torch.tensor([[2.0, 1, 1.5]]), torch.eye(3)[None], 100 * one, 0.01 * one, 4 * one, 50 * one)
    x = torch.rand(1, 1, 90, 88)
    with torch.inference_mode():
        assert torch.equal(loaded(x, params), model(x, params))


@pytest.mark.parametrize("number", ["NaN", "1e999", "-Infinity"])
@pytest.mark.parametrize("key", ["color_matrix_row_sum", "lens_shading"])
def test_numbers_that_are_not_finite_in_the_configuration(tmp_path, key, number):
    """They are no part of the tensors, and poison every picture all the same."""
    model = ParamISP(Direction.UNPROCESS)
    path = weights.save(model, tmp_path / "x.safetensors", camera="x")
    value = number if key == "color_matrix_row_sum" else f"[[{number}, 0, 0], [0, 0, 0], [0, 0, 0]]"
    config = json.dumps(model.config()).replace(f'"{key}": null', f'"{key}": {value}')
    assert number in config
    save_file(model.state_dict(), path, weights.info(path) | {"config": config})
    with pytest.raises(WeightsError, match="is not a finite number"):
        weights.verify(path)
