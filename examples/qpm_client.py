"""A client of the Quantum Platform Manager: submit, go on working, read the completion queue.

Start an environment first (`qsimenv start`), then: python examples/qpm_client.py
"""

from pathlib import Path

import qsimenv as qs
from qsimenv.qpm_plugin import connect

bell = qs.load(Path(__file__).parent / "bell.qasm")

with connect() as qpm:
    print(f"{qpm.describe()['name']}: {qpm.describe()['ranks']} ranks, ready: {qpm.is_ready()}")

    # What would it need? Asked before it is queued; what cannot fit is refused here.
    estimate = qpm.evaluate(qs.Task(bell, shots=1000))
    print(f"a Bell pair needs {estimate.ranks} rank with {estimate.engine}")

    # One hundred tasks in one request. Results come back in the order asked for.
    ids = qpm.async_run([qs.Task(bell, shots=1000, seed=seed) for seed in range(100)])
    records = qpm.read_cq(task_ids=ids, timeout_s=60)
    ones = sum(record.result.counts["11"] for record in records)
    print(f"{len(records)} tasks are {records[0].state.name}; 11 in {ones / 1000:.1f} % of the shots")

    # Exact expectation values: no shots.
    result = qpm.sync_run(qs.Task(bell, observables=["ZZ", "XX", {"ZI": 0.5, "IZ": 0.5}]))
    print(f"<ZZ>, <XX>, <(ZI+IZ)/2> = {result.expectation_values}")
