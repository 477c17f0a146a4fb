import subprocess
import sys

import pytest

from temdiff_jax.errors import InputError
from temdiff_jax.io import lock

HOLD = """
import sys, time
from temdiff_jax.io import lock
with lock.exclusive(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_training_of_a_folder_is_refused_and_a_kill_frees_it(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=f"held by process {other.pid};"):
            with lock.exclusive(folder):
                pass
        other.kill()
    with lock.exclusive(folder):
        pass
    with lock.exclusive(folder):
        assert (folder / lock.NAME).exists()


def test_remote_folders_are_refused():
    with pytest.raises(InputError, match="expected a folder of this machine"):
        with lock.exclusive("gs://bucket/run"):
            pass
