// The one-parameter ansatz for the hydrogen molecule in two qubits (0.735 Angstrom, STO-3G). Its energy is lowest at
// theta = -0.22, where  -1.05237*II + 0.39794*IZ - 0.39794*ZI - 0.01128*ZZ + 0.18093*XX  gives -1.857.
OPENQASM 3.0;
include "stdgates.inc";
input float theta;
qubit[2] q;
x q[0];
ry(theta) q[1];
cx q[1], q[0];
