// A GHZ state on 12 qubits: all 0 or all 1.
OPENQASM 3.0;
include "stdgates.inc";
qubit[12] q;
bit[12] c;
h q[0];
for uint i in [0:10] {
  cx q[i], q[i + 1];
}
c = measure q;
