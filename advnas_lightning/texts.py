"""Shows names that users gave. Each kind of output has signs with a meaning, and no name may be read as such a sign.

The names of edges, candidates, strategies and folders are texts of any kind. Every writer of this package shows them by
one of these functions. HTML is escaped by Jinja, after :func:`plain`.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any, TextIO

from rich.text import Text

# Not shown as themselves: control characters (Cc), signs without a width, such as those that turn the direction (Cf),
# halves of a surrogate pair (Cs), and line and paragraph separators (Zl, Zp).
HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
SIGNS = {"±": "+/-", "θ": "theta", "…": "~"}
ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}
LITERAL: dict[Any, Any] = {"text.parse_math": False, "text.usetex": False}  # for matplotlib: a dollar is one
FORMULA = ("=", "+", "-", "@")  # a spreadsheet computes what begins like this
TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "`": r"\textasciigrave{}", "±": r"$\pm$", "−": "$-$", "×": r"$\times$", "∞": r"$\infty$",
    "–": "--", "ⁿ": "$^n$", "“": "``", "”": "''", "θ": r"$\theta$", "→": r"$\rightarrow$", "…": r"\ldots{}",
}  # fmt: skip


def plain(text: str) -> str:
    r"""The text in one line that shows every character: those that would not be seen, or do something, as escapes.

    Example:
        >>> print(plain("two\nlines, and \x1b[31mred"))
        two\nlines, and \x1b[31mred
    """
    if text.isprintable():
        return text
    return "".join(_escaped(sign) if unicodedata.category(sign) in HIDDEN else sign for sign in text)


def encodable(text: str, stream: TextIO | None = None) -> str:
    r"""The text as :func:`plain` gives it, in characters that a stream can write; the rest are escapes.

    Args:
        text: The text.
        stream: The stream that the text is written to; by default the standard output.

    Example:
        >>> import io
        >>> encodable("0→1", io.TextIOWrapper(io.BytesIO(), "ascii"))
        '0\\u21921'
    """
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return plain(text).encode(encoding, "backslashreplace").decode(encoding)


def writable(text: str, stream: TextIO | None = None) -> str:
    """The text with other words for the signs that this package uses, where a stream cannot write them.

    Args:
        text: The text.
        stream: The stream that the text is written to; by default the standard output.

    Example:
        >>> import io
        >>> writable("93.76 ± 0.00", io.TextIOWrapper(io.BytesIO(), "ascii"))
        '93.76 +/- 0.00'
    """
    for sign, words in SIGNS.items():
        if encodable(sign, stream) != sign:
            text = text.replace(sign, words)
    return text


def rich(text: str, stream: TextIO | None = None) -> Text:
    """The text for rich, which would read brackets as its markup.

    Example:
        >>> rich("[/b]").plain
        '[/b]'
    """
    return Text(encodable(text, stream))


def listed(names: Iterable[str]) -> str:
    r"""Names for a message in one line.

    Example:
        >>> print(listed(["relu", "two\nlines"]))
        relu, two\nlines
    """
    return ", ".join(map(plain, names))


def counted(number: int, one: str, several: str | None = None) -> str:
    """A number with its noun, which is in the plural unless the number is 1.

    Args:
        number: The number.
        one: The noun in the singular.
        several: Its plural; by default with an s.

    Example:
        >>> counted(1, "run"), counted(2, "run"), counted(0, "search", "searches")
        ('1 run', '2 runs', '0 searches')
    """
    return f"{number} {one if number == 1 else several or one + 's'}"


def spaced(number: int) -> str:
    """A whole number as one reads it: with spaces between its thousands, or a very large one as a power of 10.

    Example:
        >>> spaced(2000), spaced(10_000_000_000), spaced(5**30)
        ('2000', '10 000 000 000', '9.3 × 10^20')
    """
    if number < 10**4:
        return str(number)
    if number < 10**15:
        return f"{number:,}".replace(",", " ")
    digits, power = f"{Decimal(number):.1e}".split("e")
    return f"{digits} × 10^{int(power)}"


def readable(number: float, digits: int = 3) -> str:
    """A large number in thousands, millions or more, with a few digits.

    Args:
        number: The number.
        digits: How many of its digits count.

    Example:
        >>> [readable(number) for number in (15_647_400, 27_200, 12.345, 0.00123, 3e12)]
        ['15.6 M', '27.2 k', '12.3', '0.00123', '3 T']
    """
    for size, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size <= abs(number) < math.inf:
            return f"{number / size:.{digits}g} {sign}"
    return f"{number:.{digits}g}"


def rounded_up(number: float, digits: int = 4) -> str:
    """A number with a few digits, rounded up, as for the least budget that will do. A whole number has all digits.

    Args:
        number: The number.
        digits: How many of its digits count.

    Example:
        >>> [rounded_up(number) for number in (24.6013, 15_647_401.0, 0.0012341, 0.3, 0.0)]
        ['24.61', '15647401', '0.001235', '0.3', '0']
    """
    exact = Decimal(f"{number:.12g}")
    places = max(digits - 1 - exact.adjusted(), 0)
    return f"{Decimal(math.ceil(exact.scaleb(places))).scaleb(-places).normalize():f}"


def shortened(text: str, most: int) -> str:
    """The text as :func:`plain` gives it, without its middle if it is longer than ``most`` characters.

    Example:
        >>> shortened("a very long name", 9)
        'a ve…name'
    """
    text = plain(text)
    start, end = most // 2, (most - 1) // 2
    return text if len(text) <= most else f"{text[:start]}…{text[len(text) - end :]}"


def markdown(text: str) -> str:
    r"""The text for a place in a Markdown table.

    Example:
        >>> print(markdown("a|b_c_"))
        a\|b\_c\_
    """
    return re.sub(r"([\\`*_\[\]<>|~$&#!])", r"\\\1", plain(text))


def csv_field(text: str) -> str:
    """The text for a CSV file, marked as text by an apostrophe where a spreadsheet would read a formula.

    Example:
        >>> csv_field("=1+1"), csv_field("a=1")
        ("'=1+1", 'a=1')
    """
    text = plain(text)
    return f"'{text}" if text.startswith(FORMULA) else text


def latex(text: str) -> str:
    r"""The text for LaTeX.

    Letters that pdfLaTeX lacks are shown by their numbers.

    Example:
        >>> print(latex("93.76 ± 0.00, −1 %, a_b"))
        93.76 $\pm$ 0.00, $-$1 \%, a\_b
        >>> print(latex("[0] 網"))
        {[}0] U+7DB2
    """
    signs = [TEX.get(sign) or (sign if sign <= "ſ" else f"U+{ord(sign):04X}") for sign in plain(text)]
    if signs and signs[0] in ("[", "*"):  # which the end of the row before would take for its option
        signs[0] = f"{{{signs[0]}}}"
    return "".join(signs)


def _escaped(sign: str) -> str:
    return ESCAPES.get(sign) or (f"\\x{ord(sign):02x}" if sign <= "\xff" else ascii(sign)[1:-1])
