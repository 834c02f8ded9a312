"""The HTML page of an application that does not start. Everything in it is escaped, it loads nothing, and its
own style and script are the only ones that may run.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Sequence
from typing import Final

from trioasgi.worker.excerpt import Frame, Piece, pieces

ID_FIELD: Final = b"trioasgi-broken"
"""The header field with the id of the error, in answers and in the request of the page itself."""
OVER: Final = b"!"
"""The last byte of the answer to that request, if the page should load itself again."""


def policy(nonce: str) -> bytes:
    """The Content-Security-Policy of the page."""
    return (
        f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
    ).encode()


def render(breakage: str, error_id: str, nonce: str, *, repeats: bool) -> str:
    """The page. `error_id` and `nonce` are ASCII letters, digits, `-` and `_`. `repeats`: may it load itself
    again without asking? A browser would send a form once more.
    """
    first, _, rest = breakage.partition("\n")
    lead, title = _split(first, rest)
    found = list(pieces(rest.strip("\n")))
    place = next((piece for piece in reversed(found) if isinstance(piece, Frame) and _is_users(piece)), None)
    script = _SCRIPT.replace("ID", json.dumps(error_id)).replace("REPEATS", json.dumps(repeats))
    refresh = '<noscript><meta http-equiv="refresh" content="2"></noscript>' if repeats else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<title>{_text(title)}</title>
<link rel="icon" href="data:,">
{refresh}
<style nonce="{nonce}">{_STYLE}</style>
</head>
<body>
<header>
<p>{_text(lead)}</p>
<h1>{_text(title)}</h1>
<p id="state" role="status">This page loads itself again when a file has changed.</p>
</header>
<main>
{"" if place is None else _place(place)}
{_whole(found)}
</main>
<footer>Shown by trioasgi because of <code>--reload</code>. Status 500.</footer>
<script nonce="{nonce}">{script}</script>
</body>
</html>
"""


def _split(summary: str, rest: str) -> tuple[str, str]:
    """The summary as what was done, and the error."""
    doing, failed, error = summary.partition(" failed with ")
    if failed and error:
        return f"{_capitalized(doing)} failed with", error
    doing, traceback, nothing = summary.partition(": Traceback (most recent call last):")
    if traceback and not nothing:  # a framework has sent it in place of a message; the exception is its end
        unindented = [line for line in rest.splitlines() if line[:1].strip()]
        return _capitalized(doing.removesuffix(":")), unindented[-1] if unindented else summary
    return "The application does not start", _capitalized(summary)


def _capitalized(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" if text.partition(" ")[0].isalpha() else text


def _is_users(frame: Frame) -> bool:
    return bool(frame.source) and not frame.is_library


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _place(frame: Frame) -> str:
    return f'<section id="place">{_heading(frame)}{_code(frame)}</section>'


def _whole(found: Sequence[Piece]) -> str:
    if not found:
        return ""
    return f'<section id="traceback">{"".join(_pieces(found))}</section>'


def _pieces(found: Sequence[Piece]) -> Iterator[str]:
    for piece in found:
        if isinstance(piece, str):
            if piece.strip():
                yield f"<pre>{_text(piece.strip(chr(10)))}</pre>"
        else:
            opened = " open" if _is_users(piece) else ""
            yield f"<details{opened}><summary>{_heading(piece)}</summary>{_code(piece)}</details>"


def _heading(frame: Frame) -> str:
    where = f'<span class="file">{_text(frame.file)}</span>:{frame.line}'
    return f"<span class=where>{where}</span>" + (f" in <b>{_text(frame.name)}</b>" if frame.name else "")


def _code(frame: Frame) -> str:
    if not frame.source:
        return f"<pre>{_text(frame.quoted)}</pre>" if frame.quoted else ""
    lines = "".join(
        f"<span{' class=here' if number == frame.line else ''}><i>{number}</i>{_text(line) or ' '}</span>"
        for number, line in frame.source
    )
    return f"<pre class=code>{lines}</pre>"


_STYLE: Final = """
:root { color-scheme: light dark; --edge: #8884; --mark: #d3222a; --back: #8881; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 70rem; padding: 1.5rem; }
header { border-left: .4rem solid var(--mark); padding-left: 1rem; }
header p { margin: 0; opacity: .75; }
h1 { font-size: 1.5rem; margin: .2rem 0 .4rem; overflow-wrap: anywhere; white-space: pre-wrap; }
section { margin-top: 1.5rem; }
pre { background: var(--back); border-radius: .3rem; margin: .4rem 0; overflow-x: auto; padding: .6rem; }
pre, .where, code { font-family: ui-monospace, monospace; font-size: .9rem; }
pre.code { padding: .4rem 0; }
pre.code span { display: block; min-width: max-content; padding-right: 1rem; }
pre.code i { display: inline-block; font-style: normal; opacity: .5; padding-right: 1rem; text-align: right;
  user-select: none; width: 4.5rem; }
pre.code .here { background: color-mix(in srgb, var(--mark) 20%, transparent); }
details { border: 1px solid var(--edge); border-radius: .3rem; margin: .4rem 0; padding: .2rem .6rem; }
summary { cursor: pointer; overflow-wrap: anywhere; }
footer { margin-top: 2rem; opacity: .6; }
"""

# A tab in the background asks for nothing: browsers open six connections to a server, for all tabs together.
_SCRIPT: Final = """
"use strict";
const id = ID, repeats = REPEATS, state = document.getElementById("state");
let asking = null;
function pause(ms) { return new Promise(done => setTimeout(done, ms)); }
function again() {
  if (repeats) { location.reload(); return; }
  state.textContent = "Something has changed. Load the page again to send the form once more.";
}
async function hasChanged(signal) {
  const answer = await fetch(location.href, {
    headers: {"trioasgi-broken": id}, cache: "no-store", redirect: "manual", signal});
  if (answer.headers.get("trioasgi-broken") !== id) return true;
  const reader = answer.body.getReader();
  let last = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return last === 33;
    if (value.length) last = value[value.length - 1];
  }
}
async function watch() {
  const mine = asking = new AbortController();
  while (mine === asking) {
    try {
      if (await hasChanged(mine.signal)) { if (mine === asking) again(); return; }
    } catch (error) { }
    if (mine !== asking) return;
    state.textContent = "The server does not answer. This page loads itself again when it does.";
    await pause(500);
  }
}
document.addEventListener("visibilitychange", () => {
  if (asking) asking.abort();
  asking = null;
  if (!document.hidden) watch();
});
if (!document.hidden) watch();
"""
