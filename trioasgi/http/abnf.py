"""The grammars of HTTP that several modules use, each once, as `re` patterns for bytes.

Each has its ABNF and section beside it. Other patterns include them, so they have no groups and no anchors:
use `fullmatch`. In each, neighbouring parts share no character. Otherwise the time for a match could grow
with the square of the input.
"""

from __future__ import annotations

from typing import Final

TOKEN_CHARS: Final = rb"!#$%&'*+\-.^_`|~0-9A-Za-z"
"""The characters of a token, for use inside brackets.

::

    tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~"
          / DIGIT / ALPHA                                                       (RFC 9110, 5.6.2)
"""

TOKEN: Final = rb"[" + TOKEN_CHARS + rb"]+"
"""token = 1*tchar (RFC 9110, 5.6.2)"""

NO_FIELD_CHARS: Final = rb"\x00-\x08\x0a-\x1f\x7f"
"""The characters that no field value may have, for use inside brackets: all controls but HTAB.

::

    field-vchar   = VCHAR / obs-text
    field-content = field-vchar [ 1*( SP / HTAB / field-vchar ) field-vchar ]   (RFC 9110, 5.5)
"""

FIELD_LINE: Final = TOKEN + rb":[^" + NO_FIELD_CHARS + rb"]*"
"""A field line without its line end. The white space around the value is matched with it.

::

    field-line = field-name ":" OWS field-value OWS                             (RFC 9112, 5)
"""

QUOTED_STRING: Final = rb'"(?:[\t\x20\x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'
"""::

    quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
    qdtext        = HTAB / SP / %x21 / %x23-5B / %x5D-7E / obs-text
    quoted-pair   = "\\" ( HTAB / SP / VCHAR / obs-text )                       (RFC 9110, 5.6.4)
"""

_UNRESERVED: Final = rb"A-Za-z0-9\-._~"
"""unreserved = ALPHA / DIGIT / "-" / "." / "_" / "~" (RFC 3986, 2.3)"""

_SUB_DELIMS: Final = rb"!$&'()*+,;="
"""sub-delims = "!" / "$" / "&" / "'" / "(" / ")" / "*" / "+" / "," / ";" / "=" (RFC 3986, 2.2)"""

_PCT_ENCODED: Final = rb"%[0-9A-Fa-f]{2}"
"""pct-encoded = "%" HEXDIG HEXDIG (RFC 3986, 2.1)"""

_IP_LITERAL: Final = rb"\[(?:[0-9A-Fa-f:.]+|[vV][0-9A-Fa-f]+\.[" + _UNRESERVED + _SUB_DELIMS + rb":]+)\]"
_REG_NAME: Final = rb"(?:[" + _UNRESERVED + _SUB_DELIMS + rb"]|" + _PCT_ENCODED + rb")+"

AUTHORITY: Final = rb"(?:" + _IP_LITERAL + rb"|" + _REG_NAME + rb")(?::[0-9]{0,5})?"
"""Without userinfo (RFC 9110, 4.2.4), and not empty. `authority.is_authority` checks an IPv6 address further.

::

    authority = host [ ":" port ]
    host      = IP-literal / IPv4address / reg-name                             (RFC 3986, 3.2.2)
    port      = *DIGIT                                                          (RFC 3986, 3.2.3)
"""

LENGTH_DIGITS: Final = 18
"""The most digits of a Content-Length (RFC 9110, 8.6): more than any body that could be sent, and less than
overflows anybody's 64 bits. Python makes no number of more than 4300.
"""
