"""``paramisp synth``: folders of pictures to training sets of RAW."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli import cameras
from paramisp_cli.errors import ConfigError, InputMissingError
from paramisp_cli.training.synthetic import make
from paramisp_cli.training.synthetic.series import BLACK, WHITE, Series


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    for name in ("one.jpg", "trip/two.jpg", "trip/three.png", "trip/one.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        ramp = np.linspace(60, 190, 97)[None, :, None] + rng.integers(-8, 9, (67, 97, 3))
        Image.fromarray(ramp.astype(np.uint8)).save(path)
    return folder


def series(**options) -> Series:
    return Series(**{"model": "parametric", "cameras": ("Nikon D90", "Canon EOS 60D"), "shard": 2, **options})


def run(photos, dataset, workers=1, **options) -> list[dict]:
    return [line for lines in make.make([photos], dataset, series(**options), workers=workers) for line in lines]


def digests(dataset: Path) -> dict[str, str]:
    files = (path for path in sorted(dataset.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(dataset)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seed_gives_the_same_bytes_and_a_stopped_run_goes_on(photos, tmp_path):
    run(photos, tmp_path / "a", seed=3)
    started = make.make([photos], tmp_path / "b", series(seed=3))
    next(started)
    started.close()  # as Ctrl-C does
    assert not (tmp_path / "b" / "index.jsonl").exists()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("*.tar")}
    assert len(before) == 1
    run(photos, tmp_path / "b", seed=3)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert {path: path.stat().st_mtime_ns for path in before} == before  # the finished shard was not made again
    run(photos, tmp_path / "c", seed=4)
    assert digests(tmp_path / "c")["train/000000.tar"] != digests(tmp_path / "a")["train/000000.tar"]


@pytest.mark.slow
def test_several_processes_give_the_same_bytes(photos, tmp_path):
    run(photos, tmp_path / "one")
    run(photos, tmp_path / "two", workers=2)
    assert digests(tmp_path / "one") == digests(tmp_path / "two")


def test_a_shard_is_a_webdataset(photos, tmp_path):
    lines = run(photos, tmp_path / "set", patch=32, exposure=(-2, 0), licence="ours")
    assert len(lines) == 4 * 2 * 3
    samples: dict[str, set[str]] = {}
    for path in sorted((tmp_path / "set" / "train").glob("*.tar")):
        with tarfile.open(path) as archive:
            names = archive.getnames()
            keys = [name.split(".")[0] for name in names]
            assert keys == sorted(keys, key=keys.index)  # the files of a sample are neighbours
            for name in names:
                key, kind = name.split(".", 1)
                samples.setdefault(key, set()).add(kind)
                data = archive.extractfile(name)
                assert data is not None
                if kind == "json":
                    told = json.loads(data.read())
                    assert told["name"] == key
                    assert told["licence"] == "ours"
                    assert -2 <= told["exposure"] <= 0
                else:
                    array = np.load(io.BytesIO(data.read()))
                    assert array.shape == (16, 16, 4)
                    assert array.dtype == np.uint16
    assert set(samples) == {line["name"] for line in lines}
    assert all(kinds == {"clean.npy", "noisy.npy", "json"} for kinds in samples.values())
    places = {(line["top"], line["left"]) for line in lines}
    assert places == {(top, left) for top in (0, 32) for left in (0, 32, 64)}


def test_files_have_the_camera_noise(photos, tmp_path):
    lines = run(
        photos, tmp_path / "set", kind="npy", layout="mosaic", dtype="float32", iso=(3200, 3200), shot="gaussian"
    )
    assert all(line["iso"] == 3200 for line in lines)
    assert (lines[0]["black_level"], lines[0]["white_level"]) == (0, 1)
    for line in lines:
        noisy, clean = (
            np.load(tmp_path / "set" / "train" / kind / f"{line['name']}.npy") for kind in ("noisy", "clean")
        )
        assert noisy.shape == (66, 96)
        noise = cameras.find_by_name(line["camera"]).noise_profile(3200)
        np.testing.assert_allclose(noise, line["noise"], rtol=1e-3)
        expected = (noise[1, 0] * clean + noise[1, 1]).mean()
        assert 0.9 < (noisy - clean).var() / expected < 1.1
        digest = hashlib.sha256(Path(line["source"]).read_bytes()).hexdigest()
        assert line["source_sha256"] == digest


def test_hdf5_has_the_arrays_of_the_files(photos, tmp_path):
    h5py = pytest.importorskip("h5py")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")  # in a shard with a good picture
    options = {"patch": 32, "test_share": 0.5, "seed": 1}
    lines = run(photos, tmp_path / "files", kind="npy", **options)
    assert run(photos, tmp_path / "set", kind="hdf5", **options) == lines
    found = {}
    for path in (tmp_path / "set").rglob("*.h5"):
        with h5py.File(path) as file:
            assert sorted(file) == ["clean", "meta", "noisy"]
            for name in file:
                assert h5py.h5g.get_objinfo(file[name].id).mtime == 0  # the bytes have no date
                assert file[name].chunks is None
            for at, text in enumerate(file["meta"]):
                line = json.loads(text)
                assert line["split"] == path.parent.name
                found[line["name"]] = line
                for kind in ("clean", "noisy"):
                    own = np.load(tmp_path / "files" / line["split"] / kind / f"{line['name']}.npy")
                    assert file[kind].dtype == own.dtype
                    assert (file[kind][at] == own).all()
    made = [line for line in lines if line["status"] == "made"]
    assert [found[line["name"]] for line in made] == made
    assert len(found) == len(made) == len(lines) - 1
    assert {line["split"] for line in made} == {"train", "test"}
    run(photos, tmp_path / "again", kind="hdf5", **options)
    assert digests(tmp_path / "again") == digests(tmp_path / "set")
    run(photos, tmp_path / "clean", kind="hdf5", noise=False, patch=32)
    with h5py.File(next((tmp_path / "clean").rglob("*.h5"))) as file:
        assert sorted(file) == ["clean", "meta"]


def test_hdf5_without_its_package(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"HDF5 needs the package h5py: `pip install 'paramisp\[hdf5\]'`"):
        series(kind="hdf5", patch=32)


def test_codes_and_floats_are_the_same_light(photos, tmp_path):
    (line, *_) = run(photos, tmp_path / "codes", kind="npy", noise=False)
    run(photos, tmp_path / "floats", kind="npy", noise=False, dtype="float32")
    codes, floats = (
        np.load(tmp_path / each / "train" / "clean" / f"{line['name']}.npy") for each in ("codes", "floats")
    )
    np.testing.assert_allclose((codes.astype(float) - BLACK) / (WHITE - BLACK), floats, atol=1e-5)
    assert not (tmp_path / "codes" / "train" / "noisy").exists()


def test_a_picture_lies_on_one_side_of_the_split(photos, tmp_path):
    lines = run(photos, tmp_path / "set", patch=32, test_share=0.5, seed=1)
    sides = {line["source"]: {other["split"] for other in lines if other["source"] == line["source"]} for line in lines}
    assert all(len(splits) == 1 for splits in sides.values())
    assert {"train", "test"} == set.union(*sides.values())


def test_the_card_tells_what_the_data_are(photos, tmp_path):
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    lines = run(photos, tmp_path / "set", licence="CC0")
    refused = {Path(line["source"]).name: line["reason"] for line in lines if line["status"] == "refused"}
    assert set(refused) == {"dot.png", "broken.jpg"}
    assert "smaller than" in refused["dot.png"]
    text = (tmp_path / "set" / "README.md").read_text()
    assert "**Not sensor data.**" in text
    assert "Licence of the pictures: CC0" in text
    assert "Refused pictures: 2" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 33}, "patch and stride must be even"),
        ({"stride": 32}, "needs patch"),
        ({"kind": "zip"}, "kind must be"),
        ({"kind": "hdf5"}, "kind hdf5 needs patch"),
        ({"dtype": "int8"}, "dtype must be"),
        ({"shard": 0}, "shard must be"),
        ({"test_share": 2}, "test_share must be"),
        ({"exposure": (1, 0)}, "exposure must go"),
        ({"iso": (-5, 100)}, "iso must be positive"),
        ({"cameras": ("Nikon D9999",)}, "no camera 'Nikon D9999'"),
        ({"cameras": ("Fujifilm X-T5",)}, "lacks its"),
    ],
)
def test_wrong_options_get_one_line(options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        series(**options)
    assert "\n" not in str(caught.value)


def test_another_data_set_is_not_mixed(photos, tmp_path):
    run(photos, tmp_path / "set")
    with pytest.raises(ConfigError, match="another seed; choose another -o"):
        run(photos, tmp_path / "set", seed=9)
    with pytest.raises(InputMissingError):
        run(tmp_path / "nowhere", tmp_path / "other")


def test_the_command(photos, tmp_path, paramisp):
    arguments = ["synth", photos, "-o", tmp_path / "set", "--model", "parametric", "--camera", "Nikon D90"]
    code, out, _ = paramisp(*arguments, "--iso", "200:800", "--workers", 1, "--json")
    assert code == 0
    assert [json.loads(line)["camera"] for line in out] == ["Nikon D90"] * 4
    (tmp_path / "empty").mkdir()
    for words, expected in (
        ((tmp_path / "empty", "-o", tmp_path / "x"), 5),
        ((photos, "-o", tmp_path / "y", "--model", "nothing"), 8),
        ((photos, "-o", tmp_path / "z", "--iso", "many"), 2),
        ((photos, "-o", tmp_path / "z", "--patch", 7), 2),
    ):
        code, _, err = paramisp("synth", "--workers", 1, *words)
        assert code == expected, err
