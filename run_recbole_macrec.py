"""Train and test MACRec, or any models of RecBole and this project side by side; ``--help`` lists the options."""
import sys

if __name__ == "__main__":
    from recbole_macrec.benchmark.compare.command import main

    sys.exit(main())
