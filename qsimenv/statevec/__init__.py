"""State vectors of 2**n amplitudes, split over a power-of-two number of ranks.

Everything that decides is a value made without data: ``planning`` (what to do in which order: programs, layouts, stages
of sweeps), ``encoding`` (a sweep as the few passes that a kernel makes). Everything that acts decides nothing:
``kernels``, ``exchange``. ``state`` joins the two, ``simulate`` runs a program on it, ``measuring`` reads it,
``gradients``, ``batches`` and ``storing`` build on that, ``costs`` says how long it takes, ``engine`` is the door.
"""
