"""Fuzz `RequestReader` on all codecs: `python -m tests.fuzz --seconds 60 [--engine atheris]`.

With `--pairs`, what is tried are two streams at once, on connections that share a codec.

With atheris (guided by coverage) where it is installed; else, and with `--engine own`, with mutations of our
own. What is found is printed, and the exit status is not 0.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.fuzz.check import Tally


def fuzz_with_mutations(seconds: float, seed: int) -> None:
    """Try mutations of the corpus, and of those of them that are read in a new way, until time is up."""
    from tests.fuzz.check import Tally, corpus
    from tests.fuzz.mutate import mutate

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
    print(f"seed {seed}: {len(known)} outcomes")
    print(
        f"{tally.streams} streams, read {tally.readings} times: "
        f"{tally.requests} requests, {tally.refused} refused, no difference"
    )


def fuzz_pairs(seconds: float, seed: int) -> None:
    """Try pairs of mutations, as two connections that share a codec, until time is up."""
    from tests.fuzz.check import Tally, check_pair, corpus
    from tests.fuzz.mutate import mutate

    source = random.Random(seed)
    seeds = corpus()
    tally = Tally()
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        check_pair(mutate(seeds, source), mutate(seeds, source), tally)
    print(f"seed {seed}: {tally.streams // 2} pairs")
    print(f"{tally.requests} requests, {tally.refused} refused, each read as if alone")


def _outcome(data: bytes, tally: Tally) -> object:
    from tests.fuzz.check import check

    reading = check(data, tally)
    shapes = tuple((len(each.headers), each.whole, each.keep_alive, each.method) for each in reading.requests)
    return reading.status, reading.reason, reading.in_head, shapes


def fuzz_with_atheris(seconds: float) -> None:
    """Let atheris find streams that take new ways through the code; ends the process, with its figures."""
    atheris: Any = importlib.import_module("atheris")  # has no types, and need not be there
    with atheris.instrument_imports(include=["trioasgi.http1", "h11"]):
        from tests.fuzz.check import Tally, check, corpus
    tally = Tally()

    def test_one(data: bytes) -> None:
        check(data, tally)

    directory = tempfile.mkdtemp(prefix="trioasgi-fuzz-")
    for number, data in enumerate(corpus()):
        Path(directory, f"{number:04}").write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", "-max_len=3000", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *options, directory], test_one)
    atheris.Fuzz()


def main() -> None:
    """Fuzz for as long as the arguments say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--engine", choices=["auto", "atheris", "own"], default="auto")
    parser.add_argument("--pairs", action="store_true", help="connections that share a codec, two by two")
    arguments = parser.parse_args()
    engine = arguments.engine
    if engine == "auto":
        engine = "own" if importlib.util.find_spec("atheris") is None else "atheris"
    print(f"{arguments.seconds:g} seconds, engine: {'own' if arguments.pairs else engine}", flush=True)
    if arguments.pairs:
        fuzz_pairs(arguments.seconds, arguments.seed)
    elif engine == "atheris":
        fuzz_with_atheris(arguments.seconds)
    else:
        fuzz_with_mutations(arguments.seconds, arguments.seed)


if __name__ == "__main__":
    main()
