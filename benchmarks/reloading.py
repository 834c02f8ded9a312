"""From saving a file to the new answer: trioasgi beside another server, in turn, for several rounds.

    python -m benchmarks.reloading --seconds 0.5 -- uvicorn app:app --reload --port {port}

`--seconds` is what the application's import takes. The command behind `--` is of the other server; `{port}`
stands for its port. A client asks every few milliseconds, on a new connection each time.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

SOURCE = """
import time
time.sleep({seconds})

async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({{"type": "http.response.start", "status": 200, "headers": []}})
        await send({{"type": "http.response.body", "body": b"{answer}"}})
"""
PATIENCE = 30.0


def save(directory: Path, seconds: float, answer: int) -> None:
    """Replace the application as editors do."""
    new = directory / ".new"
    new.write_text(SOURCE.format(seconds=seconds, answer=answer))
    new.replace(directory / "app.py")


def wait_for(port: int, answer: int) -> float:
    """Ask until this is the answer. Return the time when it came."""
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            client.request("GET", "/", headers={"Connection": "close"})
            if client.getresponse().read() == str(answer).encode():
                return time.perf_counter()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            client.close()
        time.sleep(0.004)
    raise SystemExit(f"port {port} does not answer {answer}")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], port: int, directory: Path) -> Iterator[None]:
    """Run a server in this directory."""
    filled = [part.replace("{port}", str(port)) for part in command]
    process = subprocess.Popen(
        filled, cwd=directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield
    finally:
        if sys.platform == "win32":
            raise NotImplementedError
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 9)
        process.wait()


def measure(command: list[str], seconds: float, answers: int) -> list[float]:
    """Milliseconds of some reloads of one server, which is alone meanwhile."""
    found = []
    port = free_port()
    with tempfile.TemporaryDirectory() as name, running(command, port, Path(name)):
        directory = Path(name)
        save(directory, seconds, 0)
        wait_for(port, 0)
        for answer in range(1, answers + 1):
            time.sleep(1.5)  # watching may begin later than serving, and a standby starts
            saved = time.perf_counter()
            save(directory, seconds, answer)
            found.append((wait_for(port, answer) - saved) * 1000)
    return found


def main() -> None:
    """Print the median and the extremes of each server, and how they compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("other", nargs="+")
    given = parser.parse_args()
    ours = [sys.executable, "-m", "trioasgi", "app:app", "--reload", "--port", "{port}", "--no-access-log"]
    results: dict[str, list[float]] = {"trioasgi": [], "other": []}
    for _ in range(given.rounds):
        results["trioasgi"] += measure(ours, given.seconds, 3)
        results["other"] += measure(given.other, given.seconds, 3)
    medians = {}
    for name, times in results.items():
        medians[name] = statistics.median(times)
        extremes = f"{min(times):.1f} to {max(times):.1f}"
        print(f"{name:9} median {medians[name]:7.1f} ms   {extremes}   n={len(times)}")
    print(f"ratio {medians['trioasgi'] / medians['other']:.2f}")


if __name__ == "__main__":
    main()
