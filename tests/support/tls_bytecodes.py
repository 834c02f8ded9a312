"""How many bytecodes of the package a new TLS connection with one request takes:
`python -m tests.support.tls_bytecodes DIRECTORY`.

Prints the average of `CLIENTS`, which come one after the other. DIRECTORY is for the certificate.
"""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from tests.support.bytecodes import Counter
from tests.support.certificates import Certificates
from tests.support.sockets import port_of, served
from tests.support.transports import certificates
from tests.test_counts import hello
from tests.test_tls_counts import CLIENTS, exchange


async def main(tls: Certificates, counter: Counter) -> None:
    context = tls.context()
    async with served(hello, access_log=False, lifespan="off", **tls.options) as server:
        await exchange(port_of(server), context)
        counter.on = True
        for _ in range(CLIENTS):
            await exchange(port_of(server), context)
        counter.on = False


if __name__ == "__main__":
    counter = Counter()
    counter.begin()
    trio.run(main, certificates(Path(sys.argv[1])), counter)
    print(counter.count / CLIENTS)
