"""Prints one line: the interpreter's version, and those of the packages named."""

import platform
import sys
from importlib.metadata import version

names = [f"{platform.python_implementation()} {platform.python_version()}"]
print(", ".join(names + [f"{package} {version(package)}" for package in sys.argv[1:]]))
