"""``python -m recbole_macrec.data``; see :mod:`recbole_macrec.commands.data`."""
import sys

from recbole_macrec.commands.data import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
