"""``python -m qsimenv.cli``: the ``qsimenv`` command where its script is not on the PATH."""

from qsimenv.cli.main import main

main()
