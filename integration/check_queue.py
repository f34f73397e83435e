#!/usr/bin/python3
"""make check-queue: the queue's checker over many seeds, on one Redis and on a cluster.

A seed that fails is told with what it found; run it again with --first SEED --seeds 1."""
import argparse
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
from harness import queuecheck, queueworld  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=4000)
    parser.add_argument("--worlds", default="single,cluster")
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="check-queue-", dir="/tmp"))
    ground, failed = queuecheck.Ground(folder), 0
    try:
        for name in options.worlds.split(","):
            world = {"single": queueworld.Single, "cluster": queueworld.Cluster}[name]()
            for seed in range(options.first, options.first + options.seeds):
                begun = time.monotonic()
                try:
                    told = queuecheck.Check(world, ground, seed, options.jobs).run()
                    print(f"seed {seed} {name}: passed in {time.monotonic() - begun:.0f} s, {told}",
                          flush=True)
                except AssertionError as fault:
                    failed += 1
                    print(f"seed {seed} {name}: FAILED: {fault}; logs in {folder}", flush=True)
                    world.heal()
            world.close()
    finally:
        ground.close()
    print(f"check-queue: {failed} seeds failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
