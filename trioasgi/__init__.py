"""trioasgi: an ASGI server for Trio and AnyIO programs.

    import trioasgi

    trioasgi.run(app, bind=("127.0.0.1:8000",))          # a program of its own

    async with trio.open_nursery() as nursery:            # part of one
        server = await nursery.start(trioasgi.serve, app)
        supervisor = await nursery.start(trioasgi.supervise, "app:app")   # in processes of its own

Nothing is imported before it is used: `import trioasgi` costs next to nothing.
"""

# Nothing of the standard library is imported here: `python -m trioasgi` runs this with the current directory
# first on sys.path, where a typing.py may lie. (Type checkers take this name for true.)
TYPE_CHECKING = False

if TYPE_CHECKING:
    from trioasgi.config import Config
    from trioasgi.config.keywords import Options
    from trioasgi.errors import (
        ASGIMessageError,
        BindError,
        ClientDisconnected,
        ConfigError,
        ExitStatus,
        LifespanError,
        LoadError,
        RollError,
        TLSError,
        TrioasgiError,
        WorkerError,
    )
    from trioasgi.process.run import run
    from trioasgi.process.supervise import supervise
    from trioasgi.process.supervisor_handle import SupervisorHandle
    from trioasgi.server.embedding import application, serve_listeners, serve_stream, serving
    from trioasgi.server.handle import Server
    from trioasgi.server.hosted_application import HostedApplication
    from trioasgi.server.progress import ServerPhase
    from trioasgi.server.serve import serve
    from trioasgi.supervisor.status import WorkerStatus

__version__ = "0.1.0"

__all__ = [
    "ASGIMessageError",
    "BindError",
    "ClientDisconnected",
    "Config",
    "ConfigError",
    "ExitStatus",
    "HostedApplication",
    "LifespanError",
    "LoadError",
    "Options",
    "RollError",
    "Server",
    "ServerPhase",
    "SupervisorHandle",
    "TLSError",
    "TrioasgiError",
    "WorkerError",
    "WorkerStatus",
    "__version__",
    "application",
    "run",
    "serve",
    "serve_listeners",
    "serve_stream",
    "serving",
    "supervise",
]

_HOMES = {
    "Config": "trioasgi.config",
    "Options": "trioasgi.config.keywords",
    "run": "trioasgi.process.run",
    "supervise": "trioasgi.process.supervise",
    "SupervisorHandle": "trioasgi.process.supervisor_handle",
    "WorkerStatus": "trioasgi.supervisor.status",
    "HostedApplication": "trioasgi.server.hosted_application",
    "Server": "trioasgi.server.handle",
    "ServerPhase": "trioasgi.server.progress",
    "application": "trioasgi.server.embedding",
    "serve": "trioasgi.server.serve",
    "serve_listeners": "trioasgi.server.embedding",
    "serve_stream": "trioasgi.server.embedding",
    "serving": "trioasgi.server.embedding",
}
"""Where the public names live; what is not here lives in `errors`."""


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    found: object = getattr(importlib.import_module(_HOMES.get(name, "trioasgi.errors")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
