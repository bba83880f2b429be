"""The ``qsimenv`` command. Top of the house: it asks the layers below and shows what they say, and decides nothing."""
