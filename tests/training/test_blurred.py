"""Blurred data sets: light is kept, nothing moves without motion, no ghosts, the sharp picture lies in the middle."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli.errors import ConfigError, FormatError, InputMissingError
from paramisp_cli.training.blurred import clips, make, motion, series, sources, video
from paramisp_cli.training.simulated import shots

HEIGHT, WIDTH = 96, 128
D90 = shots.pick_cameras(["Nikon D90"])


def chosen(**more):
    values = {"cameras": D90, "count": 4, "frames": (5, 5), "noise": False, "saturation": (0.0, 0.0), "test_share": 0.0}
    return series.Series(**{**values, **more})


def texture(shift=0.0, seed=0):
    """A frame (H, W, 3) of smooth texture, shifted to the right by any number of pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    light = np.zeros((HEIGHT, WIDTH))
    for _ in range(12):
        fy, fx, phase = rng.uniform(-0.5, 0.5), rng.uniform(-0.5, 0.5), rng.uniform(0, 6.28)
        light += np.sin(fx * (x - shift) + fy * y + phase)
    grey = np.clip(120 + 22 * light, 0, 250)
    return np.stack([grey, 0.9 * grey, 0.8 * grey], -1).astype(np.uint8)


def lamp(at, size=9):
    """A dark frame with a white lamp."""
    frame = np.full((HEIGHT, WIDTH, 3), 30, np.uint8)
    frame[44 : 44 + size, at : at + size] = 255
    return frame


def folder(path: Path, frames) -> Path:
    path.mkdir(parents=True)
    for number, pixels in enumerate(frames):
        Image.fromarray(pixels).save(path / f"frame{number}.png")  # 10 comes after 9, not after 1
    return path


def made(paths, dataset, **more):
    return list(make.make(paths, dataset, chosen(**more)))


def read(dataset, line, side):
    return np.asarray(Image.open(dataset / line["split"] / side / f"{line['name']}.png"))


def shot_of(pictures, tmp_path, **more):
    """The first blur of a clip, and the mosaics of its frames."""
    own = chosen(**more)
    source = sources.find([folder(tmp_path / "clip", pictures)], kernels=False)[0]
    shot = next(iter(clips.blurs(source, {0: "name"}, {0}, own)))
    each = [series.unprocessed(pixels, shot.canonical, shot.facts, own) for pixels in pictures]
    return shot, each


def test_no_light_is_lost(tmp_path):
    frames = [texture(2 * number) for number in range(5)]
    shot, mosaics = shot_of(frames, tmp_path)
    np.testing.assert_allclose(shot.blurred, np.mean(mosaics, 0), atol=1e-6)
    assert shot.blurred.mean() == pytest.approx(np.mean(mosaics), rel=1e-5)
    assert not np.allclose(shot.blurred, mosaics[2], atol=0.01)


def test_a_still_frame_gives_itself(tmp_path):
    clip = folder(tmp_path / "clip", [texture()] * 5)
    (line,) = made([clip], tmp_path / "set", count=1)
    blur, sharp = (read(tmp_path / "set", line, side) for side in ("blur", "sharp"))
    assert np.array_equal(blur, sharp)
    original = texture()[4:-4, 4:-4].astype(float)
    assert 10 * np.log10(255**2 / np.mean((blur - original) ** 2)) > 30
    assert line["motion"] == 0


def test_noise_is_the_cameras(tmp_path):
    clip = folder(tmp_path / "clip", [texture()] * 5)
    lines = [made([clip], tmp_path / f"set{iso}", count=1, noise=True, iso=(iso, iso))[0] for iso in (200, 3200)]
    assert lines[0]["psnr"] > lines[1]["psnr"] + 5
    assert lines[0]["iso"] == 200


def test_a_moving_lamp_leaves_a_brighter_streak_than_the_mean(tmp_path):
    frames = [lamp(30 + 3 * number) for number in range(5)]
    plain, mosaics = shot_of(frames, tmp_path / "a", most_step=8)
    added, _ = shot_of(frames, tmp_path / "b", most_step=8, saturation=(1.75, 1.75))
    white = series.white_sites(plain.canonical, plain.blurred.shape)
    share = np.mean(mosaics, 0) / white
    streak = share > 0.3
    assert (added.blurred / white)[streak].min() > 0.7 > (plain.blurred / white)[streak].min()
    assert (added.blurred >= white)[streak].mean() > 0.5 > (plain.blurred >= white)[streak].mean()
    still = share < 0.05
    for colour in (added.blurred, plain.blurred):  # a white lamp leaves a white streak: no channel runs ahead
        balanced = [(colour / white)[44:53, 38:50][row::2, column::2].mean() for row in (0, 1) for column in (0, 1)]
        assert np.ptp(np.minimum(balanced, 1)) < 0.1
    np.testing.assert_allclose(added.blurred[still], plain.blurred[still], atol=1e-6)


def test_the_sharp_picture_lies_in_the_middle(tmp_path):
    frames = [lamp(30 + 3 * number) for number in range(5)]
    shot, mosaics = shot_of(frames, tmp_path, most_step=8)
    assert np.array_equal(shot.sharp, mosaics[2])
    columns = np.arange(WIDTH)
    places = [float((light.sum(0) - light[:20].mean() * HEIGHT) @ columns) for light in (shot.blurred, shot.sharp)]
    sums = [float((light.sum(0) - light[:20].mean() * HEIGHT).sum()) for light in (shot.blurred, shot.sharp)]
    assert places[0] / sums[0] == pytest.approx(places[1] / sums[1], abs=0.6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 3.0, 6.0])
def test_motion_is_measured(shift):
    first, second = (motion.reduced(texture(by)) for by in (0, shift))
    assert motion.between(first, second, 8) == pytest.approx(shift, abs=0.6)


def test_a_flat_frame_has_no_motion():
    flat = motion.reduced(np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    assert motion.between(flat, flat, 3) == 0


def test_fast_frames_are_refused_because_of_ghosts(tmp_path):
    clip = folder(tmp_path / "clip", [texture(9 * number) for number in range(10)])
    lines = made([clip], tmp_path / "set")
    assert [line["status"] for line in lines] == ["refused"] * 2
    assert "--max-step" in lines[0]["reason"]
    assert made([clip], tmp_path / "set", most_step=12)[0]["status"] == "pair"


def test_a_moving_edge_has_no_comb(tmp_path):
    """The gradient of an edge that moves 2 px a frame is a plateau, not a row of spikes."""
    _, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    frames = []
    for number in range(9):
        ramp = 1 / (1 + np.exp(-(x - 40 - 2 * number) / 0.9))
        frames.append(np.repeat((40 + 160 * ramp)[..., None], 3, -1).astype(np.uint8))
    shot, _ = shot_of(frames, tmp_path, frames=(9, 9))
    green = shot.blurred[20::2, 1::2] if shot.canonical.cfa[1] == "G" else shot.blurred[20::2, ::2]
    slope = np.diff(green.mean(0))[21:27]
    assert slope.min() > 0.6 * slope.max() > 0


@pytest.mark.slow
def test_a_second_run_makes_the_same_bytes_and_only_what_is_missing(tmp_path):
    clip = folder(tmp_path / "clip", [texture(number) for number in range(12)])
    lines = made([clip], tmp_path / "set", noise=True, saturation=(0.25, 1.75))
    assert [line["status"] for line in lines] == ["pair", "pair"]
    files = sorted((tmp_path / "set").rglob("*.png"))
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    index = (tmp_path / "set" / "index.jsonl").read_bytes()
    files[0].unlink()
    assert made([clip], tmp_path / "set", noise=True, saturation=(0.25, 1.75)) == lines
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
    assert {path: data for path, (data, _) in after.items()} == {path: data for path, (data, _) in before.items()}
    remade = [path for path in files if after[path][1] != before[path][1]]
    assert files[0] in remade
    assert {path.stem for path in remade} == {files[0].stem}
    assert (tmp_path / "set" / "index.jsonl").read_bytes() == index
    other = made([clip], tmp_path / "set", noise=True, saturation=(0.25, 1.75), seed=1)
    assert {line["name"] for line in other}.isdisjoint(line["name"] for line in lines)
    assert len((tmp_path / "set" / "index.jsonl").read_text().splitlines()) == 4


@pytest.mark.slow
def test_frames_of_a_clip_lie_on_one_side(tmp_path):
    found = [folder(tmp_path / "clips" / f"clip{number}", [texture(seed=number)] * 6) for number in range(6)]
    lines = made([tmp_path / "clips"], tmp_path / "set", count=12, frames=(3, 3), test_share=0.5, seed=1)
    sides = {}
    for line in lines:
        sides.setdefault(line["source"], set()).add(line["split"])
    assert len(sides) == len(found)
    assert all(len(side) == 1 for side in sides.values())
    assert {next(iter(side)) for side in sides.values()} == {"train", "test"}


def test_mosaics_are_stored_in_the_cameras_codes(tmp_path):
    clip = folder(tmp_path / "clip", [texture(number) for number in range(5)])
    (line,) = made([clip], tmp_path / "set", count=1, raw=True, noise=True)
    with np.load(tmp_path / "set" / "train" / "raw" / f"{line['name']}.npz") as arrays:
        assert arrays["blur"].shape == arrays["sharp"].shape == (HEIGHT - 8, WIDTH - 8)
        assert arrays["blur"].dtype == np.uint16
        assert arrays["blur"].max() <= line["white_level"]
    assert read(tmp_path / "set", line, "blur").shape == (HEIGHT - 8, WIDTH - 8, 3)


def test_exposure_time_gives_the_number_of_frames(tmp_path):
    clip = folder(tmp_path / "clip", [texture(number / 2) for number in range(14)])
    (line,) = made([clip], tmp_path / "set", count=1, exposure=1 / 20, rate=240)
    assert line["frames"] == [0, 13]  # the odd number nearest 12, above for a tie
    assert line["exposure_time"] == pytest.approx(13 / 240)
    (refused,) = made([clip], tmp_path / "other", count=1, exposure=1 / 20)
    assert "--fps" in refused["reason"]


def test_shake_of_a_photograph(tmp_path):
    photo = tmp_path / "photo.png"
    rng = np.random.default_rng(0)
    pixels = np.asarray(Image.fromarray(rng.integers(0, 255, (60, 80, 3), np.uint8)).resize((320, 240)))
    Image.fromarray(pixels).save(photo)
    still, moved = (
        made([photo], tmp_path / f"set{length}", count=1, kernels=True, length=(length, length))[0]
        for length in (0.0, 12.0)
    )
    assert moved["length"] == pytest.approx(12, rel=0.1)
    assert still["psnr"] > moved["psnr"] + 8
    blur, sharp = (read(tmp_path / "set12.0", moved, side) for side in ("blur", "sharp"))
    assert blur.shape == sharp.shape
    assert 200 < blur.shape[0] < 240  # less the shake's reach, and the border
    assert blur.mean() == pytest.approx(sharp.mean(), rel=0.1)  # in codes: light is kept exactly


def test_wrong_choices():
    for wrong, word in (
        ({"frames": (4, 9)}, "--frames"),
        ({"frames": (1, 3)}, "--frames"),
        ({"iso": (400.0, 100.0)}, "--iso"),
        ({"count": 0}, "--count"),
        ({"size": 77}, "--size"),
        ({"test_share": 2.0}, "--test-share"),
        ({"most_step": 0.0}, "--max-step"),
    ):
        with pytest.raises(ConfigError, match=word):
            chosen(**wrong)


def test_sources(tmp_path):
    folder(tmp_path / "a" / "clip", [texture()] * 11)
    folder(tmp_path / "a" / "two", [texture()] * 2)
    found = sources.find([tmp_path / "a"], kernels=False)
    assert [source.path.name for source in found] == ["clip"]
    assert [path.name for path in found[0].files][-2:] == ["frame9.png", "frame10.png"]
    assert len(sources.find([tmp_path / "a"], kernels=True)) == 13
    with pytest.raises(InputMissingError, match="no such"):
        sources.find([tmp_path / "nowhere"], kernels=False)
    with pytest.raises(InputMissingError, match="--kernels"):
        sources.find([tmp_path / "a" / "two"], kernels=False)
    with pytest.raises(FormatError, match="--kernels"):
        sources.find([tmp_path / "a" / "two" / "frame0.png"], kernels=False)


def test_frames_of_two_sizes_are_refused(tmp_path):
    clip = folder(tmp_path / "clip", [texture()] * 4 + [texture()[:50]])
    (line,) = made([clip], tmp_path / "set", count=1)
    assert (line["status"], "frame 4" in line["reason"]) == ("refused", True)
    assert not list((tmp_path / "set").rglob("*.png"))


def test_a_clip_shorter_than_a_blur_is_refused(tmp_path):
    clip = folder(tmp_path / "clip", [texture()] * 4)
    (line,) = made([clip], tmp_path / "set", count=1)
    assert "4 frames" in line["reason"]


def test_a_foreign_index_is_not_overwritten(tmp_path):
    clip = folder(tmp_path / "clip", [texture()] * 5)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "index.jsonl").write_text(json.dumps({"something": 1}) + "\n")
    with pytest.raises(FormatError, match="line 1"):
        made([clip], tmp_path / "set")
    assert "something" in (tmp_path / "set" / "index.jsonl").read_text()


def test_a_video_without_pyav_says_how_to_get_it(tmp_path, monkeypatch):
    path = tmp_path / "clip.mp4"
    path.write_bytes(b"x")
    monkeypatch.setattr(video, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"paramisp\[video\]"):
        sources.find([path], kernels=False)


# Videos ---------------------------------------------------------------------------------------------------------------


def write_video(path, frames, rate=240, transfer=1, primaries=1, full=False):
    """Write frames without loss, tagged BT.709 unless told otherwise."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "0"})
        stream.height, stream.width = HEIGHT, WIDTH
        stream.pix_fmt = "yuv444p"
        context = stream.codec_context
        context.color_range, context.colorspace = 2 if full else 1, 1
        context.color_primaries, context.color_trc = primaries, transfer
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv444p", dst_colorspace=1, dst_color_range=2 if full else 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize("full", [False, True])
def test_a_video_gives_its_frames(tmp_path, full):
    frames = [texture(number) for number in range(4)]
    path = write_video(tmp_path / "clip.mp4", frames, full=full)
    got = list(video.read(path))
    assert len(got) == 4
    for one, other in zip(got, frames, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 3  # rounding of YCbCr
    assert video.frames_per_second(path) == 240


def test_a_video_becomes_pairs(tmp_path):
    path = write_video(tmp_path / "clip.mp4", [texture(number) for number in range(11)])
    lines = made([path], tmp_path / "set")
    assert [line["status"] for line in lines] == ["pair", "pair"]
    assert lines[0]["exposure_time"] == pytest.approx(5 / 240)
    assert lines[1]["frames"] == [5, 5]


@pytest.mark.parametrize(("transfer", "name"), [(18, "HLG"), (16, "PQ")])
def test_hdr_video_is_refused(tmp_path, transfer, name):
    path = write_video(tmp_path / "clip.mp4", [texture()] * 6, transfer=transfer, primaries=9)
    (line,) = made([path], tmp_path / "set", count=1)
    assert line["status"] == "refused"
    assert name in line["reason"]
    assert "SDR" in line["reason"]


def test_a_video_without_frames_or_video_is_refused(tmp_path):
    pytest.importorskip("av")
    path = write_video(tmp_path / "clip.mp4", [texture()] * 6)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    (line,) = made([path], tmp_path / "set", count=1)
    assert line["status"] == "refused"
    (tmp_path / "empty.mp4").write_bytes(b"")
    (line,) = made([tmp_path / "empty.mp4"], tmp_path / "set", count=1)
    assert "not a readable video" in line["reason"]
