"""Names that are something else to a program that shows them."""

from __future__ import annotations

import re

NAMES = {
    "dollar": "x$",
    "mathematics": "x$\\frac$",
    "markup": "[/b]",
    "link": "[link=http://x]y",
    "tag": "<b>&amp;",
    "script": "</script>",
    "quotes": "\"'",
    "line break": "two\nlines",
    "carriage return": "two\r\nlines",
    "tab": "a\tb",
    "colour": "\x1b[31mred",
    "one byte": "\x9b31m",
    "nothing": "\x00",
    "backspace": "\x08\x08",
    "underscore": "_under",
    "formula": "=1+1",
    "plus": "+1",
    "minus": "-1",
    "at": "@x",
    "code": "`|`",
    "pipe": "a|b",
    "backslash": "\\",
    "end of a table": "\\end{tabular}",
    "signs": "#{}%^~&$_",
    "emoji": "\U0001f600",
    "direction": "\u202eabc",
    "separator": "a\u2028b",
    "half a pair": "\ud800",
    "long": 300 * "e",
    "comma": "a,b;c",
    "template": "{{ x }}",
    "interpolation": "${seed}",
    "arrow": "->",
    "star": "*",
    "bracket": "[0]",
    "picture": "![x](y)",
    "comment": "<!-- -->",
}
# What a terminal would obey, or what would break a line or its order.
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u202e\ud800-\udfff]")
