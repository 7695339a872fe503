"""Run every comparison and print its table."""

import argparse
from collections.abc import Sequence

try:
    from jaxmodules.bench import depth, files, models, optimizers, programs, resnet, tails, training_step, width
except ModuleNotFoundError as error:
    raise ImportError(f"the benchmark needs {error.name}: pip install 'jaxmodules[bench]'") from error

SIZES = (3, 50)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m jaxmodules.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: a check that everything runs")
    quick = parser.parse_args(argv).quick
    models.run(rounds=2 if quick else 15, seconds=0.05 if quick else 0.5)
    resnet.run(rounds=1 if quick else 9)
    depth.run(rounds=1 if quick else 7)
    for blocks in SIZES:
        training_step.run(blocks, rounds=2 if quick else 31, seconds=0.005 if quick else 0.05)
        programs.run(blocks, rounds=2 if quick else 7)
        optimizers.run(blocks, rounds=1 if quick else 15, seconds=0.005 if quick else 0.05)
        tails.run(blocks, steps=100 if quick else 10_000)
    files.run(rounds=1 if quick else 9)
    width.run(rounds=1 if quick else 15, seconds=0.005 if quick else 0.05)


if __name__ == "__main__":
    main()
