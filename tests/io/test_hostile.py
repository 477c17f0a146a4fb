"""The hostile collection in one process with little memory and little time.

Each file must end in one line on an `InputError`, within 4 GiB of address space and
600 MB of resident memory, and leave no file behind.
"""

import gzip
import json
import os
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pytest

READ_ALL = """
    import json, resource, sys
    resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30, 4 * 2**30))
    from temdiff_jax import errors
    from temdiff_jax.io import tilt_series
    found = {}
    for path in sys.argv[1:]:
        try:
            tilt_series.load_tilt_series(path, [-3, 0, 3, 6])
            found[path] = "accepted"
        except errors.InputError as error:
            found[path] = str(error)
    # Not getrusage: its maximum survives exec, and so includes the test runner's.
    status = open("/proc/self/status").read()
    peak_kib = int(status.split("VmHWM:")[1].split()[0])
    print(json.dumps({"found": found, "peak_mb": peak_kib / 1024}))
"""


@pytest.fixture
def collection(tmp_path, mrc_content):
    good = np.random.default_rng(0).normal(size=(4, 6, 8)).astype(np.float32)
    zeros = bytes(2**20)
    piece = gzip.compress(zeros)
    files = {
        "huge.mrc": mrc_content(good, shape=(2**10, 2**20, 2**20)),
        "negative.mrc": mrc_content(good, shape=(4, -6, 8), grid=(8, 6, 4)),
        "truncated.mrc": mrc_content(good)[:-1],
        "nsymbt.mrc": mrc_content(good, nsymbt=2**31 - 1),
        "complex.mrc": mrc_content(good, mode=4),
        "bomb.mrc.gz": gzip.compress(mrc_content(good)) + piece * 2048,
        "lying.mrc.gz": gzip.compress(mrc_content(good, shape=(4096, 2048, 2048))),
        "nsymbt.mrc.gz": gzip.compress(mrc_content(good, nsymbt=2**31 - 1)),
        "text.mrc": b"tilt series " * 200,
        "pickle.npy": b"\x80\x04\x95\x10" + bytes(100),
        "text.tif": b"II*\0" + b"\xff" * 400,
        "empty.npz": b"",
    }
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    header = b"\x93NUMPY\x01\x00\x76\x00" + (
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (64, 1024, 1024), }".ljust(
            117
        )
        + b"\n"
    )
    with zipfile.ZipFile(
        folder / "bomb.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1
    ) as archive:
        with archive.open("tilts.npy", "w") as member:
            member.write(header)
            for _ in range(64):  # 64 of the 256 MiB that the header declares
                member.write(zeros)
    return folder


def test_collection_is_refused_in_little_memory(collection):
    paths = sorted(str(path) for path in collection.iterdir())
    before = sorted(os.listdir(collection))
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(READ_ALL), *paths],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for path in paths:
        message = report["found"][path]
        assert "expected" in message and "\n" not in message, (path, message)
    assert report["peak_mb"] < 600
    assert done.stderr == ""
    assert sorted(os.listdir(collection)) == before
