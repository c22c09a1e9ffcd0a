"""python -m halfbyte."""

import sys

from halfbyte.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
