"""What is left of a training whose process is killed, or whose folder takes no more."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*command: str) -> str:
    """Run Python in a process of its own, and return what it prints."""
    settings = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *command], env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


def test_training_killed_in_fifty_saves_ends_like_a_whole_one(tmp_path: Path) -> None:
    printed = run("-m", "tests.checkpoint.killing", str(tmp_path / "runs"), "--kills", "50", "--seed", "0")
    assert printed.startswith("50 kills")


UNCLOSED = """
import multiprocessing, sys, numpy as np
from jaxmodules.checkpoint import CheckpointManager
CheckpointManager(sys.argv[1]).save(1, x=np.random.rand(2_000_000))
worker = multiprocessing.get_context("fork").Process(target=int)
worker.start()
worker.join()
"""


def test_program_that_ends_waits_for_its_save_and_its_workers_do_not(tmp_path: Path) -> None:
    run("-c", UNCLOSED, str(tmp_path))
    assert os.listdir(tmp_path) == ["1"]


REFUSING = """
import os, resource, signal, sys, tempfile
import numpy as np
from jaxmodules.checkpoint import CheckpointManager

RANDOM = np.random.RandomState(0).bytes(1_000_000)
ME = os.geteuid()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def fill(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))

def empty(folder):
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))

def lock(folder):
    os.chmod(folder, 0o555)
    if ME == 0:  # whom no mode keeps out
        os.seteuid(65534)

def unlock(folder):
    os.seteuid(ME)
    os.chmod(folder, 0o755)

def check(refuse, accept, reason):
    with tempfile.TemporaryDirectory() as folder, CheckpointManager(folder, max_to_keep=1) as manager:
        os.chmod(folder, 0o755)
        manager.save(1, n=1, x=np.ones(3))
        manager.wait_until_finished()
        refuse(folder)
        for step, later in ((2, manager.wait_until_finished), (3, lambda: manager.save(4, n=4))):
            try:
                assert manager.save(step, n=step, x=np.frombuffer(RANDOM, np.uint8))
                later()
            except OSError as error:
                message = str(error)
            assert f"cannot save step {step} to '{folder}/{step}': " in message and reason in message, message
            assert "the earlier checkpoints are as they were: 1)" in message, message
            assert manager.all_steps() == [1] and os.listdir(folder) == ["1"], os.listdir(folder)
            assert manager.restore(x=None).values["x"].tolist() == [1, 1, 1]
        accept(folder)
        assert manager.save(5, n=5)
        assert manager.restore().values == {"n": 5} and os.listdir(folder) == ["5"]

check(fill, empty, "File too large")
check(lock, unlock, "Permission denied")
print("fine")
"""


def test_full_disk_and_read_only_folder_lose_nothing() -> None:
    assert run("-c", REFUSING) == "fine\n"
