"""Have slowhttptest attack a server with short limits, while a client sees whether others are answered.

`python -m tests.slow --connections 500 --seconds 20`; the exit status is 1 where one of the others had to
wait for more than a second, and 0 where slowhttptest (a Debian package) is not installed, which is said.
"""

from __future__ import annotations

import argparse
import http.client
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.processes import start_server

LIMITS = ("--timeout-headers", "5", "--timeout-body", "5", "--timeout-write", "5", "--limit-body-rate", "500")
PATIENCE = 1.0
MODES = {
    "slow headers": ("-H", "-i", "2", "-x", "24"),
    "slow bodies": ("-B", "-i", "2", "-s", "100000", "-x", "10"),
    "slow readers": ("-X", "-w", "512", "-y", "1024", "-n", "2", "-z", "32", "-k", "1"),
}


@dataclass
class Probe:
    """A client that asks, ten times a second, on a connection of its own each time."""

    port: int
    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    held: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Ask until `stop`."""
        while not self._stop.wait(0.1):
            self._ask()
            self.held = max(self.held, connections_to(self.port))

    def _ask(self) -> None:
        started = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", "/")
            status = connection.getresponse().status
            if status != 200:
                self.failures.append(f"status {status}")
        except (OSError, http.client.HTTPException) as error:
            self.failures.append(repr(error))
        finally:
            connection.close()
        self.seconds.append(time.monotonic() - started)

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()


def connections_to(port: int) -> int:
    """How many connections the server's side of `port` has, as Linux tells."""
    local = f":{port:04X}"
    rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
    return sum(1 for row in rows if row[1].endswith(local) and row[3] == "01")


def attack(tool: str, name: str, connections: int, seconds: int) -> bool:
    """Attack one server; did all of the others get their answers in time?"""
    mode, *options = MODES[name]
    with start_server("tests.slow.app:app", "--no-access-log", *LIMITS) as server:
        probe = Probe(server.port())
        thread = threading.Thread(target=probe.run)
        thread.start()
        path = "/big" if mode == "-X" else "/"
        command = [
            tool,
            mode,
            *options,
            "-c",
            str(connections),
            "-r",
            str(connections // 4),
            "-l",
            str(seconds),
        ]
        try:
            subprocess.run(
                [*command, "-u", f"http://127.0.0.1:{probe.port}{path}", "-p", "3", "-v", "1"],
                check=False,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=seconds + 60,
            )
        finally:
            probe.stop()
            thread.join()
        errors = server.output.count("ERROR|Traceback")
    slowest = max(probe.seconds)
    median = sorted(probe.seconds)[len(probe.seconds) // 2]
    print(
        f"{name:13} {probe.held:5} connections held at once; others: {len(probe.seconds)} asked, median "
        f"{1000 * median:.1f} ms, slowest {1000 * slowest:.0f} ms, {len(probe.failures)} failed; "
        f"{errors} errors in the log"
    )
    for failure in probe.failures[:5]:
        print("   ", failure)
    return slowest < PATIENCE and not probe.failures and not errors


def main() -> int:
    """Attack in each mode."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=20)
    arguments = parser.parse_args()
    tool = shutil.which("slowhttptest")
    if tool is None:
        print("skipped: slowhttptest is not installed (on Debian: apt-get install slowhttptest)")
        return 0
    passed = [attack(tool, name, arguments.connections, arguments.seconds) for name in MODES]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
