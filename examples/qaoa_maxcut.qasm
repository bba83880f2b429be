// QAOA for MaxCut on a ring of six vertices, two rounds, angles near their optimum: the two alternating cuts,
// 010101 and 101010, lead the list.
OPENQASM 3.0;
include "stdgates.inc";
gate edge(gamma) a, b { cx a, b; rz(gamma) b; cx a, b; }
qubit[6] q;
bit[6] c;
h q;
for uint i in [0:4] {
  edge(0.9425) q[i], q[i + 1];
}
edge(0.9425) q[5], q[0];
rx(2.1991) q;
for uint i in [0:4] {
  edge(2.1991) q[i], q[i + 1];
}
edge(2.1991) q[5], q[0];
rx(0.9425) q;
c = measure q;
