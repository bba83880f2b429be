"""Which nodes still answer: asked when a DVM was lost, before `serving` builds the next one.

Each node is asked by itself, by the way in which ranks are launched: a trivial job must end there. Nothing else tells
surely: a node may answer on the network and start nothing. What a killed daemon left on a node goes away, too.
"""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from qsimenv.errors import QSimEnvError
from qsimenv.launcher.allocation import Allocation
from qsimenv.launcher.commands import InstanceSpec, LaunchOptions
from qsimenv.launcher.process_launchers import PrterunLauncher, SrunLauncher

PATIENCE_S = 20.0
"""So long a node may take; on a busy one Python, PRTE and a shell need seconds."""
_AT_ONCE = 16
# What a killed daemon would have removed: the shared memory of its ranks (Open MPI), and a folder of its own.
_SWEEP = """
for file in /dev/shm/sm_segment.*; do
    [ -O "$file" ] && ! grep -qsF "$file" /proc/[0-9]*/maps && rm -f "$file"
done
for folder in "${TMPDIR:-/tmp}"/prted.*; do
    [ -O "$folder" ] && ! [ -e "/proc/${folder##*.}" ] && rm -rf "$folder"
done
:
"""
_log = logging.getLogger("qsimenv.controller")


async def nodes_that_answer(
    allocation: Allocation, folder: Path, options: LaunchOptions, patience_s: float = PATIENCE_S
) -> Allocation:
    """The allocation without the nodes on which nothing can be started; all of it where that is so on every node.

    Takes about a second for 16 nodes, and `patience_s` for 16 that are silent. Leaves nothing in `folder`, which is
    made, but logs.
    """
    if len(allocation.nodes) == 1:
        return allocation
    turn = asyncio.Semaphore(_AT_ONCE)

    async def answers(name: str) -> bool:
        async with turn:
            return await _answers(allocation.only({name}), folder / name, options, patience_s)

    names = [node.name for node in allocation.nodes]
    found = await asyncio.gather(*map(answers, names))
    well = {name for name, answered in zip(names, found, strict=True) if answered}
    return allocation.only(well) if well else allocation


async def _answers(node: Allocation, folder: Path, options: LaunchOptions, patience_s: float) -> bool:
    launcher = (SrunLauncher if options.world == "srun" else PrterunLauncher)(node, folder, options)
    try:
        await launcher.start(patience_s)
        sweep = await launcher.spawn(InstanceSpec(1, 1, ("/bin/sh", "-c", _SWEEP), {}, None, Path(os.devnull)))
        await asyncio.wait({sweep.ended}, timeout=patience_s)
    except (QSimEnvError, OSError) as error:
        _log.warning("node %s does not answer: %s", node.nodes[0].name, error)
        return False
    finally:
        await launcher.stop()
    return True
