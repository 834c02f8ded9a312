"""Fuzz `RequestReader` on both codecs: `python -m tests.fuzz --seconds 60 [--engine atheris]`.

With atheris (coverage-guided) where it is installed; else, and with `--engine own`, with mutations of our own.
The exit status is 1 if anything was found, which is printed.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.check import Tally, check, corpus
from tests.fuzz.mutate import mutate


def fuzz_with_mutations(seconds: float, seed: int) -> Tally:
    """Try mutations of the corpus, and of those of them that are read in a new way, until time is up."""
    source = random.Random(seed)
    seeds = corpus()
    tally = Tally()
    known = {_outcome(data, tally) for data in seeds}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        data = mutate(seeds, source)
        outcome = _outcome(data, tally)
        if outcome not in known:
            known.add(outcome)
            seeds.append(data)
    print(f"{len(seeds)} streams in the corpus at the end, seed {seed}")
    return tally


def _outcome(data: bytes, tally: Tally) -> object:
    reading = check(data, tally)
    shapes = tuple((len(each.headers), each.whole, each.keep_alive, each.method) for each in reading.requests)
    return reading.status, reading.reason, reading.in_head, shapes


def fuzz_with_atheris(seconds: float) -> Tally:
    """Let atheris find streams that take new ways through the code."""
    import atheris

    atheris.instrument_all() if False else None
    tally = Tally()

    def test_one(data: bytes) -> None:
        check(data, tally)

    with tempfile.TemporaryDirectory() as directory:
        for number, data in enumerate(corpus()):
            Path(directory, f"{number:04}").write_bytes(data)
        arguments = [sys.argv[0], f"-max_total_time={int(seconds)}", "-max_len=3000", "-print_final_stats=1", directory]
        atheris.Setup(arguments, test_one)
        atheris.Fuzz()
    return tally


def main() -> int:
    """Fuzz; 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--engine", choices=["auto", "atheris", "own"], default="auto")
    arguments = parser.parse_args()
    engine = arguments.engine
    if engine == "auto":
        engine = "own" if importlib.util.find_spec("atheris") is None else "atheris"
    print(f"{len(corpus())} streams to begin with; {arguments.seconds:g} seconds with {engine}")
    if engine == "atheris":
        tally = fuzz_with_atheris(arguments.seconds)
    else:
        tally = fuzz_with_mutations(arguments.seconds, arguments.seed)
    print(f"{tally.streams} streams, read {tally.readings} times: {tally.requests} requests, {tally.refused} refused")
    return 0


if __name__ == "__main__":
    sys.exit(main())
