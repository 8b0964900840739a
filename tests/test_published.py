"""Published checkpoints in both of torch's containers: recognised, imported, and refused in one line."""

import io
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from paramisp_cli import published, torch_legacy, torch_zip, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, WeightsError
from paramisp_cli.models import architecture, automatic, names
from paramisp_cli.models.ciexyz.published import NAMES as CIEXYZ
from paramisp_cli.models.cycleisp.published import names as cycleisp
from paramisp_cli.models.invisp.published import NAMES as INVISP


@pytest.fixture(autouse=True)
def nowhere_else(monkeypatch, tmp_path):
    """Keep the machine's own weights out of the tests."""
    monkeypatch.delenv(weights.ENVIRONMENT, raising=False)
    monkeypatch.setattr(weights, "places", lambda: [("user data folder", tmp_path / "user")])


def fresh(name, direction="unprocess"):
    torch.manual_seed(3)
    return architecture(name)(Direction(direction)).eval()


def state_of(name):
    """The tensors of fresh networks under their published names."""
    if name == "invisp":
        ours = fresh(name).state_dict()
        return OrderedDict((theirs, ours[key]) for theirs, key in INVISP.items())
    if name == "ciexyz":
        parts = {way: fresh(name, way).state_dict() for way in CIEXYZ}
        return OrderedDict((theirs, parts[way][key]) for way, names in CIEXYZ.items() for theirs, key in names.items())
    ours = fresh(name).net.state_dict()
    return OrderedDict((theirs, ours[key]) for theirs, key in cycleisp("unprocess").items())


PEERS = ("invisp", "ciexyz", "cycleisp")
TENSORS = {"invisp": 280, "ciexyz": 92, "cycleisp": 193}


def write(path, saved, legacy):
    torch.save(saved, path, _use_new_zipfile_serialization=not legacy)
    return path


# --- the old container ------------------------------------------------------------------------------------------------


def test_both_containers_hold_the_same(tmp_path):
    shared = torch.rand(6)
    saved = OrderedDict(
        a=torch.rand(2, 3), b=shared[2:5], c=shared, p=torch.nn.Parameter(torch.rand(4)), n=torch.arange(3),
        h=torch.rand(5).half(), d=torch.rand(2, dtype=torch.float64), e=torch.zeros(0), s=torch.tensor(2.5),
    )  # fmt: skip
    found = []
    for legacy, module in ((True, torch_legacy), (False, torch_zip)):
        archive = module.Archive(write(tmp_path / "x.pth", {"more": [1, "é"], "tensors": saved}, legacy))
        content = archive.saved()
        assert content["more"] == [1, "é"]
        found.append({key: ref.array(archive, key) for key, ref in content["tensors"].items()})
    for key, tensor in saved.items():
        np.testing.assert_array_equal(found[0][key], tensor.detach().float().numpy())
        np.testing.assert_array_equal(found[0][key], found[1][key])


def test_every_truncation_of_the_old_container_is_refused_in_one_line(tmp_path):
    whole = write(tmp_path / "a.pth", {"state_dict": {"x": torch.zeros(3)}}, legacy=True).read_bytes()
    for cut in range(len(whole)):
        (tmp_path / "b.pth").write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match=r"b\.pth[^\n]*$"):
            weights.load_model(tmp_path / "b.pth", "render")


@pytest.mark.slow
def test_damage_to_the_old_container_is_refused_in_one_line(tmp_path):
    """Any byte changed: an error in one line, or a checkpoint of no known architecture."""
    whole = bytearray(write(tmp_path / "a.pth", {"state_dict": {"x": torch.zeros(3)}}, legacy=True).read_bytes())
    for place in range(len(whole)):
        for value in (0x00, 0x80, 0xFF):
            changed = bytearray(whole)
            changed[place] = value
            (tmp_path / "b.pth").write_bytes(changed)
            with pytest.raises(WeightsError, match=r"b\.pth[^\n]*$"):
                weights.load_model(tmp_path / "b.pth", "render")


def forged(keys=("0",), count=3, claimed=3, dtype="FloatStorage", machine=None, protocol=1001, tail=b""):
    """An old container by hand."""
    stream = io.BytesIO()
    stream.write(torch_legacy.MAGIC)
    stream.write(pickle.dumps(protocol, 2))
    stream.write(pickle.dumps({"little_endian": True} if machine is None else machine, 2))

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            return thing[1] if isinstance(thing, tuple) and thing[:1] == ("pid",) else None

    storage = ("pid", ("storage", getattr(torch, dtype), "0", "cuda:7", claimed, None))
    tensor = torch._utils._rebuild_tensor_v2, (storage, 0, (claimed,), (1,), False, OrderedDict())

    class Tensor:
        def __reduce__(self):
            return tensor

    Pickler(stream, 2).dump({"state_dict": {"x": Tensor()}})
    stream.write(pickle.dumps(list(keys) if isinstance(keys, tuple) else keys, 2))
    stream.write(struct.pack("<q", count) + np.arange(3, dtype="<f4").tobytes() + tail)
    return stream.getvalue()


def test_a_forged_file_is_read(tmp_path):
    (tmp_path / "a.pth").write_bytes(forged())
    archive = torch_legacy.Archive(tmp_path / "a.pth")
    assert archive.saved()["state_dict"]["x"].array(archive, "x").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"count": 1 << 62}, "claims 4611686018427387904 numbers, beyond the file's end"),
        ({"count": -1}, "claims 18446744073709551615 numbers"),
        ({"count": 2}, "4 bytes follow its last tensor"),
        ({"tail": b"more"}, "4 bytes follow its last tensor"),
        ({"keys": ("0", "0")}, "no list of its storages"),
        ({"keys": 7}, "no list of its storages"),
        ({"keys": ()}, "20 bytes follow its last tensor"),
        ({"keys": ("1",)}, "its storage 1 has no type that checkpoints have"),
        ({"dtype": "BFloat16Storage"}, "its storage 0 has no type that checkpoints have"),
        ({"machine": {"little_endian": False}}, "big-endian"),
        ({"machine": []}, "big-endian"),
        ({"protocol": 1002}, "torch's protocol 1002, not 1001"),
    ],
)
def test_forged_files_are_refused(tmp_path, how, message):
    (tmp_path / "a.pth").write_bytes(forged(**how))
    with pytest.raises(WeightsError, match=message):
        torch_legacy.Archive(tmp_path / "a.pth")


def test_a_tensor_larger_than_its_storage(tmp_path):
    (tmp_path / "a.pth").write_bytes(forged(claimed=1 << 39))
    archive = torch_legacy.Archive(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="its storage of 12 bytes does not fit it"):
        archive.saved()["state_dict"]["x"].array(archive, "x")


class Evil:
    def __reduce__(self):
        import os

        return os.system, ("touch PWNED",)


def test_the_old_container_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved = {"state_dict": state_of("ciexyz"), "optimizer": Evil(), "epoch": [Evil()]}
    model = weights.load_model(write(tmp_path / "a.pth", saved, legacy=True), "render")
    assert model.name == "ciexyz"
    assert not (tmp_path / "PWNED").exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert (tmp_path / "PWNED").exists()  # it was live


# --- recognition and import -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["bare", "state_dict", "parallel"])
@pytest.mark.parametrize("legacy", [True, False], ids=["old", "zip"])
@pytest.mark.parametrize("name", PEERS)
@pytest.mark.slow
def test_import_of_a_published_checkpoint(name, legacy, form, tmp_path):
    state = state_of(name)
    if form == "parallel":
        state = OrderedDict((f"module.{key}", value) for key, value in state.items())
    path = write(tmp_path / "some.pth", state if form == "bare" else {"epoch": 3, "state_dict": state}, legacy)
    kind = "CycleISP's RGB to RAW network" if name == "cycleisp" else name
    assert weights.recognise(path).startswith(f"{path} is a checkpoint of {kind}: {TENSORS[name]} tensors, ")
    assert weights.architecture_of(path) == name
    written = weights.import_checkpoint(path, tmp_path / "w", camera="Nikon D700", licence="MIT")
    ways = {"invisp": ["both"], "ciexyz": ["unprocess", "render"], "cycleisp": ["unprocess"]}[name]
    assert written == [tmp_path / "w" / name / f"nikon-d700.{way}.safetensors" for way in ways]
    for file in written:
        header = weights.verify(file)
        assert (header["architecture"], header["source"], header["recipe"]) == (name, "some.pth", "published")
    for direction in architecture(name).directions:
        found = weights.find("Nikon D700", direction, name, tmp_path / "w")
        model = weights.load_model(found.path, direction)
        assert (model.name, model.direction) == (name, direction)
        again = weights.load_model(path, direction)
        want = fresh(name, direction).state_dict()
        for loaded in (model.state_dict(), again.state_dict()):
            assert all(torch.equal(value, want[key]) for key, value in loaded.items())


@pytest.mark.slow
def test_one_file_for_both_directions(tmp_path, paramisp):
    path = write(tmp_path / "nikon.pth", state_of("invisp"), legacy=True)
    target = tmp_path / "new" / "nikon.safetensors"
    code, out, err = paramisp("weights", "import", path, "--camera", "Nikon D700", "-o", target)
    assert (code, out) == (0, [str(target)])
    assert err == [
        f"{path} is a checkpoint of invisp: 280 tensors, 1.41 million numbers",
        "licence of the authors' weights: MIT; trained on MIT-Adobe FiveK, whose licence is for research",
    ]
    before = target.read_bytes()
    code, out, err = paramisp("weights", "import", path, "--camera", "Nikon D700", "-o", target)
    assert (code, out) == (6, [])
    assert f"{target}: exists already" in err[-1]
    assert target.read_bytes() == before
    assert weights.info(target)["direction"] == "unprocess+render"
    assert weights.directions(weights.info(target)) == ISP_DIRECTIONS
    code, out, _ = paramisp("weights", "verify", target)
    assert (code, out) == (0, [f"{target}: good (invisp, unprocess+render, Nikon D700)"])
    with pytest.raises(ConfigError, match="holds both directions; pass `direction`: unprocess or render"):
        weights.load_model(target)
    for direction in ISP_DIRECTIONS:
        assert weights.find(None, direction, explicit=target).path == target
        assert weights.load_model(target, direction).direction == direction
    (one,) = weights.import_checkpoint(path, tmp_path / "w", camera="Nikon D700", direction="render")
    assert (one.name, weights.info(one)["direction"]) == ("nikon-d700.render.safetensors", "render")
    with pytest.raises(WeightsError, match="unprocess is needed"):
        weights.load_model(one, "unprocess")
    with pytest.raises(ConfigError, match="weights of its own for each direction"):
        weights.save(fresh("ciexyz"), tmp_path / "x.safetensors", camera="x", both=True)


@pytest.mark.slow
def test_two_results_do_not_fit_one_file(tmp_path, paramisp):
    path = write(tmp_path / "xyz.pth", state_of("ciexyz"), legacy=True)
    code, out, err = paramisp("weights", "import", path, "--camera", "generic", "-o", tmp_path / "x.safetensors")
    assert (code, out) == (2, [])
    assert "holds both directions" in err[-1]
    assert not (tmp_path / "x.safetensors").exists()
    words = ("--direction", "render", "-o", tmp_path / "x.safetensors")
    assert paramisp("weights", "import", path, "--camera", "generic", *words)[0] == 0
    assert (tmp_path / "x.safetensors").is_file()
    (tmp_path / "y.safetensors").mkdir()
    code, out, err = paramisp(
        "weights", "import", path, "--camera", "x", "--direction", "render", "-o", tmp_path / "y.safetensors"
    )
    assert (code, out) == (2, [])
    assert "is a folder" in err[-1]


def test_other_forms_of_a_checkpoint(tmp_path):
    """Tensors in another order in memory, beside other values, under another key; names that are no UTF-8."""
    state = state_of("invisp")
    want = fresh("invisp").state_dict()
    key = "operations.0.G.conv1.weight"
    turned = state[key].permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)
    assert not turned.is_contiguous()
    forms = [{**state, key: turned}, {**state, "epoch": 3}, {"model": dict(state), "n": [1]}]
    for legacy in (True, False):
        for saved in forms:
            path = write(tmp_path / "a.pth", saved, legacy)
            found = weights.load_model(path, "render").state_dict()
            assert all(torch.equal(value, want[name]) for name, value in found.items())
    strange = tmp_path / "b\udcffad.pth"
    strange.write_bytes(path.read_bytes())
    (file,) = weights.import_checkpoint(strange, tmp_path / "w", camera="x")
    assert weights.info(file)["source"] == "b\\udcffad.pth"
    with pytest.raises(ConfigError, match="cannot derive a file name"):
        weights.import_checkpoint(path, tmp_path / "w", camera="N\udcff")


class Claim:
    """A tensor whose shape is only claimed."""

    def __init__(self, shape):
        self.shape = shape

    def __reduce__(self):
        from torch._utils import _rebuild_tensor_v2

        return _rebuild_tensor_v2, (torch.zeros(1).untyped_storage(), 0, self.shape, (1,), False, OrderedDict())


@pytest.mark.parametrize("shape", [(1 << 38,) * 40, (1,) * 20_000], ids=["huge", "long"])
def test_absurd_shapes_take_no_time(tmp_path, shape):
    """Also many tensors that share one endless shape."""
    saved = {name: Claim(shape) for name in ["operations.0.F.conv1.bias", *(f"{i}" for i in range(2000))]}
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(saved, 2))
    assert "2001 tensors" in weights.recognise(path)
    with pytest.raises(WeightsError) as caught:
        weights.load_model(path, "render")
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("invisp", {"operations.0.F.conv1.bias": None}, "lacks 1 of the tensors of InvISP: operations.0.F.conv1.bias"),
        ("invisp", {"extra": torch.zeros(1)}, "has tensors that InvISP does not have: extra"),
        ("invisp", {"operations.0.F.conv1.bias": torch.zeros(31)}, r"shape \(31,\), invisp needs \(32,\)"),
        ("ciexyz", {"srgb2xyz_globa_net.net.out.bias": None}, "lacks 1 of the tensors of CIE XYZ Net"),
        ("ciexyz", {"srgb2xyz_local_net.net.conv3.bias": torch.full((32,), torch.nan)}, "not finite"),
        ("cycleisp", {"body.4.weight": torch.zeros(96)}, "body.4.weight differs from body.0.body.0.body.1.weight"),
        ("cycleisp", {"body.3.bias": None}, "lacks 1 of the tensors of CycleISP's RGB to RAW network: body.3.bias"),
        ("cycleisp", {"head.0.weight": torch.zeros(64, 3, 3, 3)}, "unknown architecture .*head.0.weight .64, 3, 3, 3"),
    ],
)
def test_import_is_strict(tmp_path, name, change, message):
    state = {key: value for key, value in (state_of(name) | change).items() if value is not None}
    with pytest.raises(WeightsError, match=message) as caught:
        weights.load_model(write(tmp_path / "a.pth", state, legacy=True), "unprocess")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["colour", "render"])
def test_the_guided_networks_of_cycleisp_are_named(tmp_path, kind):
    state = {key: torch.zeros(96, 1) if key == "head.0.weight" else torch.zeros(1) for key in cycleisp(kind)}
    path = write(tmp_path / "a.pth", {"state_dict": state}, legacy=True)
    title = {"colour": "CycleISP's colour branch", "render": "CycleISP's RAW to RGB network"}[kind]
    assert title in weights.recognise(path)
    with pytest.raises(WeightsError, match=f"{title}, which renders only beside an sRGB picture"):
        weights.import_checkpoint(path, tmp_path, camera="x")


def test_an_unknown_architecture_gets_the_list(tmp_path):
    path = write(tmp_path / "a.pth", {"stem.weight": torch.zeros(8, 3)}, legacy=True)
    known = "paramisp, invisp, ciexyz, cycleisp, cstpp"
    said = rf"unknown architecture \(known: {known}\); its tensors are stem.weight \(8, 3\)"
    with pytest.raises(WeightsError, match=f"{said}$"):
        weights.recognise(path)
    path = write(tmp_path / "b.pth", {f"stem.{i}": torch.zeros(1) for i in range(6)}, legacy=True)
    with pytest.raises(WeightsError, match=r"stem.3 \(1,\), and 2 more$"):
        weights.recognise(path)


# --- the search -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_peers_are_never_picked_by_themselves(tmp_path):
    """Not even where they are the camera's only weights; a name of the architecture or of the weights picks them."""
    assert set(automatic()) == {*names()} - {*PEERS, "cameranet"}
    assert names()[0] == automatic()[0] == "fast"
    path = write(tmp_path / "a.pth", state_of("cycleisp"), legacy=True)
    (own,) = weights.import_checkpoint(path, tmp_path / "user", camera="Nikon D90")
    both = write(tmp_path / "b.pth", state_of("invisp"), legacy=True)
    (pair,) = weights.import_checkpoint(both, tmp_path / "user", camera="Nikon D90")
    for direction in ISP_DIRECTIONS:
        assert weights.find(["Nikon D90"], direction) is None
        assert weights.find(["Nikon D90"], direction, "invisp").path == pair
        assert weights.load_model("Nikon D90", direction, architecture="invisp").direction == direction
    assert weights.find(["Nikon D90"], "unprocess", "cycleisp").path == own
    assert weights.find(None, "render", explicit="nikon-d90").path == pair
    assert weights.locate("nikon-d90") == [pair]
    assert {each.path for each in weights.available()} == {own, pair}


def test_suffixes_of_published_files(tmp_path):
    for suffix in published.SUFFIXES:
        path = write(tmp_path / f"a{suffix}", state_of("ciexyz"), legacy=False)
        assert weights.load_model(path, "render").name == "ciexyz"
        assert weights.find(None, "render", explicit=path).path == path
