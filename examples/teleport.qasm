// Teleportation: the state of q[0] reaches q[2] by two measured bits and two corrections. The preparation is then
// undone on q[2], so check always reads 0, whatever the two bits are.
OPENQASM 3.0;
include "stdgates.inc";
qubit[3] q;
bit[2] sent;
bit check;
ry(1.1) q[0];
rz(0.7) q[0];
h q[1];
cx q[1], q[2];
cx q[0], q[1];
h q[0];
sent[0] = measure q[0];
sent[1] = measure q[1];
if (sent[1]) { x q[2]; }
if (sent[0]) { z q[2]; }
rz(-0.7) q[2];
ry(-1.1) q[2];
check = measure q[2];
