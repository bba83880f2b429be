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

# Qiskit's own primitives over the backend: the energy of a hydrogen molecule (0.735 Angstrom, STO-3G, two qubits) as a
# function of the one angle that its ground state needs, for all angles in one call.
hydrogen = SparsePauliOp(["II", "IZ", "ZI", "ZZ", "XX"], [-1.05237, 0.39794, -0.39794, -0.01128, 0.18093])
theta = Parameter("theta")
ansatz = QuantumCircuit(2)
ansatz.x(0)
ansatz.ry(theta, 1)
ansatz.cx(1, 0)
angles = np.linspace(-1.2, 0.8, 11)
estimator = BackendEstimatorV2(backend=backend, options={"default_precision": 0.005, "seed_simulator": 1})
energies = estimator.run([(ansatz, hydrogen, angles[:, None])]).result()[0].data.evs
exact = np.linalg.eigvalsh(hydrogen.to_matrix())[0]
best = int(np.argmin(energies))
print("energy of H2 by angle:")
for k, (angle, energy) in enumerate(zip(angles, energies, strict=True)):
    print(f"  {angle:+.1f}  {energy:+.3f}  {'*' * round(60 * (energy - exact) + 1)}{' lowest' if k == best else ''}")
print(f"lowest at {angles[best]:+.1f}: {energies[best]:.3f}, exact ground state {exact:.3f}")

# And the state itself, sampled at that angle.
sampled = ansatz.copy()
sampled.measure_all()
sampler = BackendSamplerV2(backend=backend, options={"seed_simulator": 1})
data = sampler.run([(sampled, [angles[best]])], shots=1000).result()[0].data
print("sampled:", dict(sorted(data.meas.get_counts().items())))
