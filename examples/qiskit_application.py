"""A Qiskit application: nothing in it but the backend's name says where it runs.

With an environment running (`qsimenv start`) the circuits run there, otherwise in this process:
    python examples/qiskit_application.py
"""

import numpy as np
from qiskit import QuantumCircuit, transpile
from qiskit.circuit import Parameter
from qiskit.primitives import BackendEstimatorV2, BackendSamplerV2
from qiskit.quantum_info import SparsePauliOp

from qsimenv.qiskit import QSimBackend

backend = QSimBackend()
print(backend)

# Counts of a GHZ state.
ghz = QuantumCircuit(5)
ghz.h(0)
for qubit in range(4):
    ghz.cx(qubit, qubit + 1)
ghz.measure_all()
job = backend.run(transpile(ghz, backend), shots=1000, seed_simulator=7)
print("GHZ:", dict(sorted(job.result().get_counts().items())), job.status().name)

# Qiskit's own primitives over the backend: an energy as a function of one angle.
theta = Parameter("theta")
ansatz = QuantumCircuit(2)
ansatz.ry(theta, 0)
ansatz.cx(0, 1)
hamiltonian = SparsePauliOp(["ZZ", "XI", "IX"], [1.0, 0.5, 0.5])
angles = np.linspace(0, np.pi, 5)
estimator = BackendEstimatorV2(backend=backend, options={"default_precision": 0.02, "seed_simulator": 1})
energies = estimator.run([(ansatz, hamiltonian, angles[:, None])]).result()[0].data.evs
print("energies:", np.round(energies, 2))

sampled = ansatz.copy()
sampled.measure_all()
sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": 1})
data = sampler.run([(sampled, [np.pi / 2])], shots=1000).result()[0].data
print("sampled:", dict(sorted(data.meas.get_counts().items())))
