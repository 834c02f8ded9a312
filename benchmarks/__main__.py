"""Run each server in turn, round by round, and print what a request costs it.

The figure to compare is CPU time per request; requests per second depend on the client as well. Ends by
itself within a quarter of an hour, with --quick in about a minute.
"""

from __future__ import annotations

import argparse
import compileall
import datetime
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from . import apps, chart, load, report
from .cases import CASES, Case
from .compiled import WrongBuild, check_plain, compiled_server
from .idle import room
from .process import ROOT, Workspace
from .results import About, Results
from .rounds import Plan, Runner
from .servers import COMPILED, OURS, SERVERS, Server

MINUTES, QUICK_MINUTES = 14.0, 1.2
QUICK_SERVERS = (OURS, "uvicorn", "granian")
"""Those of a quick run that names none."""
ROUNDS = 5
"""As many as fit into the minutes, and no more than these."""


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--quick", action="store_true", help=f"one round of a few cases, on {', '.join(QUICK_SERVERS)}")
    add("--rounds", type=int, metavar="N", help=f"at most so many; default: {ROUNDS}")
    add("--seconds", type=int, default=1, metavar="N", help="of load each time; default: %(default)s")
    add("--minutes", type=float, metavar="N", help=f"begin nothing after so many; default: {MINUTES:g}")
    add(
        "--case",
        action="append",
        default=[],
        metavar="TEXT",
        help="only this one, or all with this text in their names; repeatable",
    )
    add("--server", action="append", default=[], metavar="TEXT", help="as --case, for servers; repeatable")
    add("--compiled", type=Path, metavar="WHEEL", help="measure this compiled wheel of trioasgi too")
    add("--list", action="store_true", help="name the cases and the servers, and end")
    add("--json", type=Path, metavar="FILE", help="write every measurement there")
    add("--svg", type=Path, metavar="FILE", help="draw a chart there")
    add("--markdown", action="store_true", help="print tables as Markdown")
    add("--load", type=Path, metavar="FILE", help="measure nothing: report what --json wrote")
    parsed = parser.parse_args()
    if parsed.seconds < 1 or (parsed.rounds is not None and parsed.rounds < 1):
        parser.error("--rounds and --seconds are at least 1")
    servers = [*(server.name for server in SERVERS), COMPILED]
    for kind, wanted, names in (
        ("case", parsed.case, [case.name for case in CASES]),
        ("server", parsed.server, servers),
    ):
        for text in wanted:
            if not any(_is_named(name, text, names) for name in names):
                parser.error(f"--{kind} {text}: there is none, see --list")
    for path in (parsed.json, parsed.svg):
        if path is not None and not path.parent.is_dir():
            parser.error(f"{path}: there is no directory {path.parent}")
    return parsed


def make_workspace(directory: Path) -> Workspace:
    """Write the files that servers need."""
    workspace = Workspace(directory)
    leaf = trustme.CA().issue_cert("127.0.0.1", "localhost")
    workspace.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    workspace.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    workspace.file.write_bytes(apps.FILE_BODY)
    return workspace


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """Return the cases that were asked for."""
    cases = [case for case in CASES if case.quick] if options.quick and not options.case else CASES
    names = [case.name for case in CASES]
    return [case for case in cases if _named(case.name, options.case, names)]


def chosen_servers(options: argparse.Namespace, compiled: Server | None) -> list[Server]:
    """Return the servers that were asked for and are installed; say which are not."""
    known = list(SERVERS)
    if compiled is not None:
        known.insert(1, compiled)
    names = [server.name for server in known]
    servers = []
    for server in known:
        by_default = server.name in QUICK_SERVERS or not options.quick
        asked_for = _named(server.name, options.server, names) if options.server else by_default
        if not (asked_for or server is compiled):
            continue
        missing = server.missing()
        if missing:
            print(f"{server.name}: left out: not installed: {', '.join(missing)}", file=sys.stderr)
        else:
            servers.append(server)
    return servers


def _named(name: str, wanted: Sequence[str], names: Sequence[str]) -> bool:
    return not wanted or any(_is_named(name, text, names) for text in wanted)


def _is_named(name: str, text: str, names: Sequence[str]) -> bool:
    """Does `text` name this one? If it is the whole name of one of `names`, it names no other."""
    return name == text if text in names else text.lower() in name.lower()


def about(servers: Iterable[Server], seconds: int) -> About:
    """Describe what the figures depend on."""
    release, _, _ = platform.release().partition("-")  # without the name of somebody's build
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {release}",
        "processor": processor(),
        "cpus": os.cpu_count() or 1,
        "versions": {server.package: server.version() for server in servers},
        "load": " and ".join(sorted({load.generator(case) for case in CASES})),
        "seconds": seconds,
    }


def processor() -> str:
    """Return the processor's name, where the system tells."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def measured(options: argparse.Namespace) -> Results:
    """Measure what the options ask for. What is there at Ctrl-C counts."""
    for tool in load.missing():
        print(
            f"{tool} is not installed: a Python client takes its place; figures are rougher", file=sys.stderr
        )
    minutes = options.minutes or (QUICK_MINUTES if options.quick else MINUTES)
    rounds = options.rounds or (1 if options.quick else ROUNDS)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        check_plain()
        wheel: Path | None = options.compiled
        compiled = None if wheel is None else compiled_server(wheel, directory / "compiled")
        cases, servers = chosen_cases(options), chosen_servers(options, compiled)
        results = Results(about(servers, options.seconds))
        plan = Plan(cases, servers, rounds, options.seconds, minutes)
        try:
            Runner(plan, make_workspace(directory), results).run()
        except KeyboardInterrupt:
            print("interrupted: what follows is not complete", file=sys.stderr)
    return results


def main() -> int:
    """Compare and print; return 1 if trioasgi failed a case or nothing was measured."""
    options = arguments()
    if options.list:
        print("cases", *(case.name for case in CASES), sep="\n  ")
        print("servers", *(server.name for server in SERVERS), sep="\n  ")
        return 0
    if options.load is not None:
        results = Results.from_json(options.load.read_bytes())
    elif sys.platform != "linux":
        print("CPU time and memory are read from Linux's process table", file=sys.stderr)
        return 1
    else:
        room()  # servers inherit the limit of open files
        for package in ("trioasgi", "benchmarks"):  # as an installer has done with all the others
            compileall.compile_dir(ROOT / package, quiet=1)
        try:
            results = measured(options)
        except WrongBuild as error:
            print(error, file=sys.stderr)
            return 1
    print(report.markdown(results) if options.markdown else report.text(results))
    if options.json is not None:
        options.json.write_bytes(results.to_json() + b"\n")
    if options.svg is not None:
        options.svg.write_text(chart.chart(results), "utf-8")
    ours = [one for one in results.outcomes if one.server.startswith(OURS)]
    failed = any(one.failure is not None for one in ours)
    return 1 if failed or not any(one.counts for one in results.outcomes) else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # by way of every `finally`
    sys.exit(main())
