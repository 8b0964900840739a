"""Hostile checkpoints: bounded memory and time, whatever a zip file and its pickle claim."""

from __future__ import annotations

import itertools
import pickle
import tracemalloc
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from paramisp_cli import torch_zip
from paramisp_cli.errors import WeightsError

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED


def saved(path, pickled, *more):
    """A zip file as torch writes it, of a pickle and (name, data, compression) of other members."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, data, compression in more:
            archive.writestr(name, data, compression)
    return path


def peak(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a/byteorder", "a/version", "a/data/0", "extra"])
def test_no_member_is_inflated(tmp_path, name):
    path = saved(tmp_path / "a.ckpt", pickle.dumps({}), (name, bytes(64 << 20), DEFLATED))

    def refused():
        with pytest.raises(WeightsError, match=f"a.ckpt: its {name} is compressed, so torch did not write it"):
            torch_zip.Archive(path)

    assert peak(refused) < 2 << 20


def test_members_hold_no_more_than_the_file(tmp_path):
    """Two members whose directory entries point at the same data."""
    path = saved(tmp_path / "a.ckpt", pickle.dumps({}), ("a/data/0", bytes(5000), STORED), ("a/data/1", b"", STORED))
    data = bytearray(path.read_bytes())
    one, two = (data.rindex(name) - 46 for name in (b"a/data/0", b"a/data/1"))
    data[two + 16 : two + 28] = data[one + 16 : one + 28]  # checksum and sizes
    data[two + 42 : two + 46] = data[one + 42 : one + 46]  # where it begins
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="claim more bytes than the file has"):
        torch_zip.Archive(path)


def test_a_tensor_may_share_a_storage_but_not_without_end(tmp_path):
    shared = torch.zeros(100_000)
    torch.save({str(i): shared.view(1, -1) for i in range(3)}, tmp_path / "a.ckpt")
    archive = torch_zip.Archive(tmp_path / "a.ckpt")
    tensors = list(archive.saved().values())
    for tensor in tensors:
        np.testing.assert_array_equal(tensor.array(archive, "x"), np.zeros((1, 100_000), np.float32))
    with pytest.raises(WeightsError, match="more numbers than the file"):
        [tensor.array(archive, "x") for tensor in itertools.repeat(tensors[0], 100)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pickled", "said"),
    [
        (b"]" * (2 << 20) + b".", "more than 500000 operations"),
        (b"}" * (17 << 20) + b".", "data.pkl has 17825793 bytes, so torch did not write it"),
        (b"".join(b"cm\nn%d\n" % number for number in range(2000)) + b".", "more than 1000 classes"),
        (b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.", "a bytearray of 1099511627776 bytes"),
        (b"\x80\x05\x97.", "the operation 0x97"),  # an out-of-band buffer
        (b"\x80\x02\x82\x01.", "the operation 0x82"),  # the extension registry
        (b"]a", "damaged"),
        (b"", "damaged"),
    ],
    ids=["operations", "size", "globals", "bytearray", "buffer", "extension", "stack", "empty"],
)
def test_pickles_beyond_all_bounds(tmp_path, pickled, said):
    path = saved(tmp_path / "a.ckpt", pickled)

    def refused():
        with pytest.raises(WeightsError, match=said):
            torch_zip.Archive(path).saved()

    assert peak(refused) < 150 << 20


NESTED = b")" + b"\x85" * 300_000  # ((((…),),),): its hash takes more stack than there is
LAUGHS = b")" + b"2\x86" * 60  # (x, x) of (x, x) of …: its hash takes 2^60 steps
HUGE = b"\x8a\x09" + (1 << 64).to_bytes(9, "little")


@pytest.mark.slow
@pytest.mark.parametrize("key", [NESTED, LAUGHS, HUGE], ids=["nested", "laughs", "integer"])
@pytest.mark.parametrize(
    "form",
    [b"}%bNs.", b"}(%bNu.", b"(%bNd.", b"\x8f(%b\x90.", b"(%b\x91.", b"ccollections\nOrderedDict\n]](%bNea\x85R."],
    ids=["item", "items", "dict", "set", "frozenset", "ordered"],
)
def test_keys_that_are_dear_to_hash(key, form):
    with pytest.raises(ValueError, match="as the key of a dictionary or set"):
        torch_zip.unpickle(b"\x80\x04" + form % key, "x")


def test_plain_data_is_as_pickle_reads_it():
    plain = {"a": [1, 2.5, None, True, "é", b"x", (1, (2, 3))], 7: {"n": {1, 2}, "f": frozenset({3}), "big": 1 << 80}}
    plain["ordered"] = OrderedDict(x=1, y=2)
    for protocol in (4, 5):
        assert torch_zip.unpickle(pickle.dumps(plain, protocol), "x") == plain
    assert torch_zip.unpickle(pickle.dumps(bytearray(b"abc"), 5), "x") == b"abc"
    assert torch_zip.unpickle(b"ccollections\nOrderedDict\n]](S'a'\nI1\nea\x85R.", "x") == OrderedDict(a=1)


def test_a_pickle_changes_no_class_of_ours():
    """BUILD with a pair of states would set attributes on whatever it is given."""
    evil = b"\x80\x02ccollections\nOrderedDict\n" + b"N}X\x05\x00\x00\x00_callK\x01s\x86b)R."
    assert torch_zip.unpickle(evil, "x") == OrderedDict()
    assert torch_zip.unpickle(pickle.dumps(OrderedDict(a=1), 2), "x") == OrderedDict(a=1)


def test_every_truncation_is_refused_in_one_line(tmp_path):
    torch.save({"state_dict": {"x": torch.zeros(3)}}, tmp_path / "a.ckpt")
    whole = (tmp_path / "a.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        pickled = archive.read("a/data.pkl")
    for cut in range(0, len(whole), 5):
        (tmp_path / "b.ckpt").write_bytes(whole[:cut])
        with pytest.raises(WeightsError, match=r"b\.ckpt[^\n]*$"):
            torch_zip.Archive(tmp_path / "b.ckpt")
    for cut in range(len(pickled)):
        archive = torch_zip.Archive(saved(tmp_path / "b.ckpt", pickled[:cut]))
        with pytest.raises(WeightsError, match=r"b\.ckpt is damaged[^\n]*$"):
            archive.saved()
