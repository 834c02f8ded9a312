"""Loading an application by name: what is accepted, and what is said of what is not."""

from __future__ import annotations

import itertools
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import pytest

from trioasgi.config import Config
from trioasgi.errors import ExitStatus, LoadError
from trioasgi.process.loading import load_app
from trioasgi.server.application import check_app
from trioasgi.wsgi.middleware import WSGIMiddleware

_numbers = itertools.count()

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module under a name that no other test has imported, and return that name."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)

    def write(source: str, name: str | None = None) -> str:
        name = name or f"loading_{next(_numbers)}"
        file = tmp_path / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(source))
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


def load(app: str, directory: Path, *, factory: bool = False) -> object:
    return load_app(Config(app=app, app_dir=str(directory), factory=factory))


def message(app: str, directory: Path, *, factory: bool = False) -> str:
    with pytest.raises(LoadError) as caught:
        load(app, directory, factory=factory)
    assert caught.value.exit_status is ExitStatus.NOT_STARTED
    return str(caught.value)


APPLICATIONS = """
    import functools

    async def app(scope, receive, send): ...

    class Holder:
        class nested:
            app = staticmethod(app)

    class Instance:
        async def __call__(self, scope, receive, send): ...

    instance = Instance()
    bound = instance.__call__
    partial = functools.partial(lambda extra, scope, receive, send: app(scope, receive, send), 1)
    def anything(*arguments): return app(*arguments)

    class Endpoint:  # as Starlette's: to construct one is the call
        def __init__(self, scope, receive, send): ...
        def __await__(self): yield

    class Legacy:
        def __init__(self, scope): ...
        async def __call__(self, receive, send): ...

    class Needy:
        def __init__(self, settings): ...
        async def __call__(self, scope, receive, send): ...

    class Nothing: ...

    class WSGI:
        def __call__(self, environ, start_response): ...

    class Made:
        def __init__(self, environ, start_response): ...
        def __iter__(self): ...

    def legacy(scope): ...
    def wsgi(environ, start_response): ...
    def two(a, b): ...
    number = 3

    def create_app(debug=False): return app
    async def create_async(): return app
    def create_number(): return 3
    def create_with(settings): return app
    def create_broken(): return {}["key"]
"""


@pytest.mark.parametrize(
    "attribute", ["app", "Holder.nested.app", "instance", "bound", "partial", "anything", "Endpoint"]
)
def test_asgi_callables_are_returned_as_they_are(attribute: str, write: Write, tmp_path: Path) -> None:
    name = write(APPLICATIONS)
    found = load(f"{name}:{attribute}", tmp_path)
    expected: object = sys.modules[name]
    for part in attribute.split("."):
        expected = getattr(expected, part)
    assert found == expected


def test_of_a_class_whose_instances_are_applications_an_instance_is_made(
    write: Write, tmp_path: Path
) -> None:
    name = write(APPLICATIONS)
    assert isinstance(load(f"{name}:Instance", tmp_path), sys.modules[name].Instance)


@pytest.mark.parametrize("attribute", ["wsgi", "two", "WSGI", "Made"])
def test_a_wsgi_application_is_told_by_its_signature(attribute: str, write: Write, tmp_path: Path) -> None:
    assert isinstance(load(f"{write(APPLICATIONS)}:{attribute}", tmp_path), WSGIMiddleware)


@pytest.mark.parametrize(
    ("interface", "attribute", "said"),
    [
        ("asgi", "wsgi", "leave out --interface asgi"),
        ("asgi", "two", "cannot be called with scope"),
        ("wsgi", "app", "cannot be called with environ and start_response"),
    ],
)
def test_what_the_interface_option_rules_out(
    interface: Literal["asgi", "wsgi"], attribute: str, said: str, write: Write, tmp_path: Path
) -> None:
    config = Config(app=f"{write(APPLICATIONS)}:{attribute}", app_dir=str(tmp_path), interface=interface)
    with pytest.raises(LoadError, match=said):
        load_app(config)


@pytest.mark.parametrize("attribute", ["create_app", "Instance"])
def test_factory(attribute: str, write: Write, tmp_path: Path) -> None:
    assert callable(load(f"{write(APPLICATIONS)}:{attribute}", tmp_path, factory=True))


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("Legacy", "ASGI 2"),
        ("legacy", "ASGI 2"),
        ("Needy", "class that needs arguments"),
        ("Nothing", "cannot be called with scope"),
        ("number", "is of type int, not an ASGI application"),
        ("functools", "is a module"),
        ("create_app", "add --factory"),
    ],
)
def test_what_is_no_asgi_3_application_is_said(
    attribute: str, said: str, write: Write, tmp_path: Path
) -> None:
    assert said in message(f"{write(APPLICATIONS)}:{attribute}", tmp_path)


@pytest.mark.parametrize(
    ("attribute", "said"),
    [
        ("create_async", "async function"),
        ("create_number", "returned is of type int"),
        ("create_with", "without arguments"),
        ("create_broken", "KeyError: 'key'"),
        ("app", "leave out --factory"),
        ("number", "cannot be called"),
    ],
)
def test_what_is_no_factory_is_said(attribute: str, said: str, write: Write, tmp_path: Path) -> None:
    assert said in message(f"{write(APPLICATIONS)}:{attribute}", tmp_path, factory=True)


def test_a_missing_attribute_suggests_near_ones(write: Write, tmp_path: Path) -> None:
    said = message(f"{write(APPLICATIONS)}:instanse", tmp_path)
    assert "has no attribute 'instanse'" in said
    assert "did you mean 'instance'" in said
    assert "\n" not in said


def test_a_missing_module_suggests_near_ones(write: Write, tmp_path: Path) -> None:
    write(APPLICATIONS, "service_main")
    said = message("service_mian:app", tmp_path)
    assert "no module 'service_mian'" in said
    assert "did you mean 'service_main'" in said
    assert "\n" not in said


def test_a_missing_submodule_is_looked_for_in_its_package(write: Write, tmp_path: Path) -> None:
    write("", "service_package.__init__")
    write(APPLICATIONS, "service_package.views")
    said = message("service_package.veiws:app", tmp_path)
    assert "did you mean 'service_package.views'" in said


def test_a_module_inside_a_module_is_no_package(write: Write, tmp_path: Path) -> None:
    name = write("")
    assert f"'{name}' is a module, not a package" in message(f"{name}.inner:app", tmp_path)


def test_an_import_that_fails_inside_the_module_is_the_modules_failure(write: Write, tmp_path: Path) -> None:
    name = write("import no_such_library_anywhere")
    said = message(f"{name}:app", tmp_path)
    assert f"importing the module '{name}' failed with ModuleNotFoundError" in said
    assert f'{name}.py", line 1' in said


def test_the_users_traceback_is_shown_and_nothing_of_ours(write: Write, tmp_path: Path) -> None:
    inner = write("def divide():\n    return 1 / 0")
    name = write(f"import {inner}\n{inner}.divide()")
    said = message(f"{name}:app", tmp_path)
    first, *_ = said.splitlines()
    assert first.endswith("failed with ZeroDivisionError: division by zero")
    assert f'{name}.py", line 2' in said
    assert f'{inner}.py", line 2' in said
    assert "importlib" not in said
    assert "loading.py" not in said


def test_the_traceback_of_a_cause_is_trimmed_as_well(write: Write, tmp_path: Path) -> None:
    inner = write("1 / 0")
    name = write(
        f"try:\n    import {inner}\nexcept ZeroDivisionError as error:\n    raise OSError('no') from error"
    )
    said = message(f"{name}:app", tmp_path)
    assert "ZeroDivisionError" in said
    assert "OSError: no" in said
    assert "importlib" not in said


def test_a_syntax_error_shows_the_line(write: Write, tmp_path: Path) -> None:
    name = write("def app(:\n    pass")
    said = message(f"{name}:app", tmp_path)
    assert "failed with SyntaxError: invalid syntax" in said
    assert "def app(:" in said
    assert "importlib" not in said


@pytest.mark.parametrize("source", ["import sys; sys.exit(0)", "raise SystemExit('no settings')"])
def test_system_exit_is_a_failure(source: str, write: Write, tmp_path: Path) -> None:
    assert "failed with SystemExit" in message(f"{write(source)}:app", tmp_path)


RAISED = [
    "asyncio.CancelledError('x')",
    "BaseExceptionGroup('x', [asyncio.CancelledError()])",
    "GeneratorExit",
]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(
    ("form", "doing"),
    [
        ("raise {}", "importing the module"),
        ("def __getattr__(name): raise {}", "looking up"),
        (
            "class app:\n    def __init__(self): raise {}\n    async def __call__(self, a, b, c): ...",
            "making an",
        ),
    ],
)
def test_what_is_no_exception_is_a_failure_as_well(
    raised: str, form: str, doing: str, write: Write, tmp_path: Path
) -> None:
    said = message(f"{write('import asyncio' + chr(10) + form.format(raised))}:app", tmp_path)
    assert re.match(rf"{doing} \S+.* failed with [a-zA-Z.]*(CancelledError|Group|GeneratorExit)", said)
    assert "application.py" not in said
    assert "loading.py" not in said


def test_a_factory_may_raise_what_is_no_exception(write: Write, tmp_path: Path) -> None:
    name = write("import asyncio\ndef app(): raise asyncio.CancelledError")
    said = message(f"{name}:app", tmp_path, factory=True)
    assert said.startswith(f"calling the factory '{name}:app' failed with asyncio.exceptions.CancelledError")


def test_keyboard_interrupt_is_none_of_our_business(write: Write, tmp_path: Path) -> None:
    name = write("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        load(f"{name}:app", tmp_path)


def test_an_endless_traceback_is_cut(write: Write, tmp_path: Path) -> None:
    name = write("def first(n): return second(n)\ndef second(n): return first(n)\nfirst(1)")
    said = message(f"{name}:app", tmp_path)
    assert "RecursionError" in said
    assert len(said) < 15_000


def test_a_property_that_raises_is_the_users_failure(write: Write, tmp_path: Path) -> None:
    name = write("class C:\n    @property\n    def app(self): return self.nothing\nc = C()")
    assert "has no attribute 'nothing'\n\nTraceback" in message(f"{name}:c.app", tmp_path)


@pytest.mark.parametrize(
    ("app", "said"),
    [
        ("main.py:app", "did you mean 'main:app'?"),
        (
            r"C:\project\main.py:app",
            "names a file; did you mean 'main:app', with --app-dir for its directory?",
        ),
        (r"C:\project\main.py", "file; did you mean 'main:app', with --app-dir for its directory?"),
        ("/project/main.py:app", "file; did you mean 'main:app', with --app-dir for its directory?"),
        ("src/main:app", "did you mean 'src.main:app'?"),
        ("./main.py", "did you mean 'main:app'?"),
        ("main", "did you mean 'main:app'?"),
        (":app", "did you mean 'main:app'?"),
        ("main:", "did you mean 'main:app'?"),
    ],
)
def test_a_name_of_another_form_suggests_what_was_meant(app: str, said: str, tmp_path: Path) -> None:
    assert said in message(app, tmp_path)


def test_no_name_at_all() -> None:
    with pytest.raises(LoadError, match="no application was given"):
        load_app(Config())


def test_app_dir_comes_first_on_the_path(write: Write, tmp_path: Path) -> None:
    name = write(APPLICATIONS)
    load(f"{name}:app", tmp_path)
    assert sys.path[0] == str(tmp_path)


def test_app_dir_is_the_current_directory_by_default(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert callable(load_app(Config(app=f"{write(APPLICATIONS)}:app")))


def test_an_app_dir_that_is_not_there(tmp_path: Path) -> None:
    assert "app_dir" in message("main:app", tmp_path / "nowhere")


def test_an_application_object_is_checked_too() -> None:
    async def takes_one(scope: object) -> None: ...

    with pytest.raises(LoadError, match="the application takes only the scope"):
        check_app(takes_one)
