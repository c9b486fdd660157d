#!/usr/bin/env python3
"""Counts lines of code: `lines.py FILE...`, Python or JavaScript.

Empty lines, comments and documentation do not count, since how much is explained says nothing
about how much there is to explain. Of JavaScript it expects comments on lines of their own.
"""

import ast
import io
import sys
import tokenize
from pathlib import Path

LAYOUT = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def python_lines(text: str) -> int:
    """Lines that hold a token which is neither layout nor part of a string that stands alone."""
    alone: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            alone.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in LAYOUT:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - alone)


def javascript_lines(text: str) -> int:
    """Lines that are neither empty nor begin as a comment does."""
    return sum(not line.startswith(("//", "/*", "*")) for line in map(str.strip, text.splitlines()) if line)


def main() -> None:
    """Prints a line for each file, and their sum."""
    if not sys.argv[1:] or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    total = 0
    for name in sys.argv[1:]:
        text = Path(name).read_text(encoding="utf-8")
        count = python_lines(text) if name.endswith(".py") else javascript_lines(text)
        total += count
        sys.stdout.write(f"{count:6} {name}\n")
    sys.stdout.write(f"{total:6} together\n")


if __name__ == "__main__":
    main()
