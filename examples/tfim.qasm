// The transverse-field Ising chain on ten spins, eight Trotter steps of 0.1 from all spins up.
OPENQASM 3.0;
include "stdgates.inc";
gate bond(theta) a, b { cx a, b; rz(theta) b; cx a, b; }
qubit[10] q;
bit[10] c;
for uint step in [1:8] {
  for uint i in [0:8] {
    bond(-0.2) q[i], q[i + 1];
  }
  rx(-0.2) q;
}
c = measure q;
