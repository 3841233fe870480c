"""Train and test MACRec, or compare models of RecBole and this project; ``--help`` lists the options."""
import sys

if __name__ == "__main__":
    from recbole_macrec.benchmark.compare.run_command import main

    sys.exit(main())
