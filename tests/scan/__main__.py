"""Have testssl.sh and sslscan look at a server with TLS.

`python -m tests.scan`; the exit status is 1 where one of them finds something above low, or the server logs
an error. A scanner that is not installed is named and skipped (both are packages of Debian).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

from tests.scan import certificate
from tests.support.processes import start_server

SECONDS = 600
ABOVE_LOW = {"MEDIUM", "HIGH", "CRITICAL", "FATAL"}
OLD = {("ssl", "2"), ("ssl", "3"), ("tls", "1.0"), ("tls", "1.1")}
STRONG = {"strong", "acceptable"}


def testssl(tool: str, port: int, directory: Path) -> Iterator[str]:
    """What testssl.sh finds above low."""
    report = directory / "testssl.json"
    options = ["--quiet", "--color", "0", "--warnings", "off", "--add-ca", str(directory / "ca.pem")]
    command = [tool, *options, "--jsonfile", str(report), f"https://{certificate.HOST}:{port}"]
    # Its exit status is the number of findings of any severity.
    subprocess.run(command, check=False, stdout=subprocess.DEVNULL, timeout=SECONDS)
    findings = json.loads(report.read_text())
    print(f"testssl.sh: {len(findings)} findings")
    if not any(finding["id"] == "TLS1_3" for finding in findings):
        yield "it has not come to the end"
    for finding in findings:
        line = f"{finding['severity']} {finding['id']}: {finding['finding']}"
        if finding["severity"] in ABOVE_LOW:
            yield line
        elif finding["severity"] in {"LOW", "WARN"}:
            print("   ", line)


def sslscan(tool: str, port: int, directory: Path) -> Iterator[str]:
    """What sslscan finds weak."""
    report = directory / "sslscan.xml"
    command = [tool, "--no-colour", f"--xml={report}", f"{certificate.HOST}:{port}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=SECONDS)
    found = ElementTree.parse(report).getroot()
    ciphers = list(found.iter("cipher"))
    print(f"sslscan: {len(ciphers)} ciphers")
    if not ciphers:
        yield "it has found no cipher"
    for protocol in found.iter("protocol"):
        if (protocol.get("type"), protocol.get("version")) in OLD and protocol.get("enabled") != "0":
            yield f"{protocol.get('type')} {protocol.get('version')} is enabled"
    for cipher in ciphers:
        if cipher.get("strength") not in STRONG:
            yield f"{cipher.get('cipher')} is {cipher.get('strength')}"
    for weakness, attribute in (("heartbleed", "vulnerable"), ("compression", "supported")):
        if any(each.get(attribute) != "0" for each in found.iter(weakness)):
            yield weakness
    if any(
        each.get("supported") != "0" and each.get("secure") == "0" for each in found.iter("renegotiation")
    ):
        yield "renegotiation"


SCANNERS: dict[str, Callable[[str, int, Path], Iterator[str]]] = {"testssl": testssl, "sslscan": sslscan}


def main() -> int:
    """Run each of them on the same server."""
    found = list[str]()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        certificate.write(directory)
        options = ("--certfile", str(directory / "server.pem"), "--lifespan", "off", "--log-level", "info")
        with start_server("tests.scan.app:app", *options) as server:
            port = server.port()
            for scanner, scan in SCANNERS.items():
                tool = shutil.which(scanner)
                if tool is None:
                    print(f"skipped: {scanner} is not installed")
                    continue
                found += [f"{scanner}: {line}" for line in scan(tool, port, directory)]
            errors = server.output.count("ERROR|Traceback")
            found += [f"{errors} errors in the log"] if errors else []
    for line in found:
        print("FOUND", line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
