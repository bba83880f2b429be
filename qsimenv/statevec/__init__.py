"""State vectors of 2**n amplitudes, split over a power-of-two number of ranks.

Everything that decides is a value made without data: ``program`` (what to do in which order), ``layout`` (which qubit
lives on which index bit), ``plan`` (stages of sweeps). Everything that acts decides nothing: ``kernels_numba``,
``exchange``. ``state`` joins the two, ``simulate`` runs a program on it, ``engine`` is the door.
"""
