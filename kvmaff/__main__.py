"""``python -m kvmaff``, the same as ``kvmaff``."""

from kvmaff.cli import main

main()
