"""Task and Result: what is refused and how, how counts are spelled, and that both travel unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import qsimenv as qs
from qsimenv.circuit import Assign, Bits, Circuit, IfElse, Literal, Measure, Register, gate
from qsimenv.errors import InvalidArgumentError
from qsimenv.task import Observable, Result, Task, observable, task, written_clbits
from qsimenv.wire import decode_hook, encode_hook

BELL = Circuit(2, 2, (gate("h", 0), gate("cx", 0, 1), Measure(0, 0), Measure(1, 1)))
FREE = Circuit(1, 1, (gate("rx", 0, params=["p0 + p1"]), Measure(0, 0)), parameters=("a", "b"))

ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_hook)


class HasToList:
    """As Qiskit's SparsePauliOp."""

    def to_list(self) -> list[tuple[str, complex]]:
        return [("XX", 0.5 + 0j), ("ZI", -1)]


# --- what is refused ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "run: nothing is asked for; give shots, observables or save='statevector'"),
        ({"shots": 0}, "shots: 0 found, 1 to 2147483648 needed (leave shots out for exact values)"),
        ({"shots": -3}, "shots: -3 found"),
        ({"shots": 1 << 32}, "shots: 4294967296 found"),
        ({"shots": 10.0}, "shots: 10.0 found, a whole number is needed"),
        ({"shots": "10"}, "shots: '10' found, a whole number is needed"),
        ({"shots": 1, "seed": -1}, "seed: -1 found, 0 to 2**64 - 1 needed"),
        ({"shots": 1, "seed": 1 << 64}, "seed: 18446744073709551616 found"),
        ({"shots": 1, "seed": 0.5}, "seed: 0.5 found, a whole number is needed"),
        ({"shots": 1, "precision": "half"}, "precision: 'half' found, 'double' or 'single' needed"),
        ({"save": "counts"}, "save: 'counts' found, 'statevector' or the path of an .h5 file needed"),
        ({"shots": 1, "unwritten_registers": "x"}, "unwritten_registers: 'x' found"),
        ({"observables": "Z"}, "observable: 'Z' has 1 letter, the circuit 2 qubits; write I where nothing acts"),
        ({"observables": "ZA"}, "observable: 'ZA' has letters other than I, X, Y and Z"),
        ({"observables": "A "}, "observable: 'A ' has letters other than I, X, Y and Z"),
        ({"observables": {}}, "observable: it has no terms"),
        ({"observables": {"ZZ": 1j}}, "observable: the coefficient 1j of ZZ is complex, real is needed"),
        ({"observables": {"ZZ": float("nan")}}, "observable: the coefficient nan of ZZ is not a finite number"),
        ({"observables": {"ZZ": "a"}}, "observable: {'ZZ': 'a'} found, a Pauli string"),
        ({"observables": [("ZZ", 0.5)]}, "observable: ('ZZ', 0.5) found, a Pauli string"),
        ({"observables": [3]}, "observable: 3 found, a Pauli string"),
        ({"shots": 1, "parameters": [1.0]}, "parameters: an array of shape (1,) found, (0,) or (B, 0) needed"),
    ],
)
def test_a_bad_task_is_refused_with_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        task(BELL, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (None, "parameters: 'a' is left unbound; give values for 2 parameter(s)"),
        ({"a": 1.0}, "parameters: 'b' is left unbound; give it a value"),
        ({"a": 1.0, "b": 2.0, "c": 3.0}, "parameters: 'c' is not one of the circuit's ['a', 'b']"),
        ({"a": 1.0, "b": "x"}, "parameters: an array of numbers of shape (P,) or (B, P) is needed"),
        ([1.0], "parameters: an array of shape (1,) found, (2,) or (B, 2) needed"),
        ([[1.0, 2.0], [3.0]], "parameters: an array of numbers of shape (P,) or (B, P) is needed"),
        (np.zeros((1, 1, 2)), "parameters: an array of shape (1, 1, 2) found"),
        (np.zeros((0, 2)), "parameters: an array without any set of values found"),
        ([1.0, float("inf")], "parameters: a value that is not a finite number found"),
        ([float("-inf"), float("inf")], "parameters: a value that is not a finite number found"),
        ([[1e200, 0.0], [0.0, float("nan")]], "parameters: a value that is not a finite number found"),
        ("ab", "parameters: an array of numbers of shape (P,) or (B, P) is needed"),
    ],
)
def test_bad_parameters_are_refused_with_one_line(parameters: Any, message: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        task(FREE, shots=1, parameters=parameters)
    assert str(caught.value).startswith(message)


def test_parameters_whose_squares_overflow_are_numbers_all_the_same() -> None:
    assert task(FREE, shots=1, parameters=[1e200, -1e300]).batch_shape == ()


def test_counts_need_a_measurement() -> None:
    with pytest.raises(InvalidArgumentError, match="the circuit has no measurement, so there are no counts"):
        task(Circuit(1, 0, (gate("h", 0),)), shots=1)
    assert task(Circuit(1, 0, (gate("h", 0),)), observables="Z").shots is None


def test_a_register_that_nothing_writes() -> None:
    circuit = Circuit(2, 3, (Measure(0, 0),), (Register("a", (0,)), Register("b", (1, 2)), Register("none", ())))
    with pytest.raises(InvalidArgumentError, match="the classical register 'b' is never written"):
        task(circuit, shots=1)
    assert task(circuit, shots=1, unwritten_registers="zero").shots == 1
    assert task(circuit, observables="ZZ").shots is None


def test_written_bits_are_found_inside_of_control_flow() -> None:
    inside = IfElse(Literal(1), (Measure(0, 2),), (Assign(Bits((4, 5)), Literal(1)),))
    assert written_clbits(Circuit(1, 6, (inside, Measure(0, 0)))) == {0, 2, 4, 5}


# --- what is accepted ---


def test_observables_in_every_spelling() -> None:
    assert observable("zz") == Observable((("ZZ", 1.0),))
    assert observable({"XX": 0.5, "zi": -1}) == Observable((("XX", 0.5), ("ZI", -1.0)))
    assert observable([("XX", 0.5), ("ZI", -1)]) == observable({"XX": 0.5, "ZI": -1.0}) == observable(HasToList())
    assert observable(observable("X")) == observable("X")
    assert task(BELL, observables="ZZ").observables == (observable("ZZ"),)
    assert task(BELL, observables=HasToList()).observables == (observable(HasToList()),)
    assert task(BELL, observables=["ZZ", {"XX": 2}, [("YY", 1)], HasToList()]).observables == (
        observable("ZZ"), observable({"XX": 2.0}), observable({"YY": 1.0}), observable(HasToList()),
    )  # fmt: skip


def test_parameters_by_name_are_in_the_order_of_the_circuit() -> None:
    made = task(FREE, shots=1, parameters={"b": 2.0, "a": 1.0})
    assert made.parameters is not None
    assert made.parameters.tolist() == [1.0, 2.0]
    assert made.batch_shape == ()
    assert task(FREE, shots=1, parameters=np.zeros((7, 2), dtype=np.float32)).batch_shape == (7,)


def test_numbers_of_numpy_become_plain_ones() -> None:
    made = task(BELL, shots=np.int64(5), seed=np.uint64(3))
    assert (type(made.shots), type(made.seed)) == (int, int)


# --- counts ---


def samples_of(*words: int, num_bytes: int) -> np.ndarray:
    return np.array([list(word.to_bytes(num_bytes, "big")) for word in words], dtype=np.uint8)


def test_counts_without_registers() -> None:
    result = Result(num_clbits=3, samples=samples_of(0b110, 0b001, 0b110, num_bytes=1))
    assert result.counts == {"001": 1, "110": 2}
    assert result.memory == ["110", "001", "110"]
    assert list(result.counts) == ["001", "110"]


def test_counts_with_several_registers() -> None:
    """The last register first, the last bit of each first, bits in no register in front."""
    registers = (Register("a", (0, 1)), Register("empty", ()), Register("b", (4, 2)))
    result = Result(num_clbits=5, registers=registers, samples=samples_of(0b00001, 0b10000, 0b01000, num_bytes=1))
    assert result.memory == ["0 00 01", "0 01 00", "1 00 00"]
    assert result.counts == {"0 00 01": 1, "0 01 00": 1, "1 00 00": 1}


def test_counts_of_many_bits() -> None:
    word = 1 << 99 | 1 << 64 | 1
    result = Result(num_clbits=100, samples=samples_of(word, word, 0, num_bytes=13))
    assert result.counts == {f"{0:0100b}": 1, f"{word:0100b}": 2}


def test_counts_of_many_sets_of_parameters() -> None:
    result = Result(num_clbits=1, samples=np.array([[[0], [1]], [[1], [1]]], dtype=np.uint8))
    assert result.counts == [{"0": 1, "1": 1}, {"1": 2}]
    assert result.memory == [["0", "1"], ["1", "1"]]


def test_no_shots_no_counts() -> None:
    for name in ("counts", "memory"):
        with pytest.raises(InvalidArgumentError, match="the task asked for no shots"):
            getattr(Result(num_clbits=1), name)


# --- on the wire ---


def travel(value: Any) -> Any:
    return msgspec.msgpack.Decoder(type(value), dec_hook=decode_hook).decode(ENCODER.encode(value))


def test_a_task_travels() -> None:
    made = task(FREE, shots=5, seed=1, observables="Z", parameters=np.arange(6.0).reshape(3, 2), name="n")
    back = travel(made)
    assert np.array_equal(back.parameters, made.parameters)
    assert back.parameters.dtype == np.float64
    replace = msgspec.structs.replace
    assert replace(back, parameters=None) == replace(made, parameters=None)
    assert back.circuit.hash == FREE.hash
    assert travel(task(BELL, shots=1)) == task(BELL, shots=1)


def test_a_result_is_shown_in_a_line() -> None:
    """However many shots, sets of parameters and amplitudes it has."""
    samples, values = np.zeros((3, 100_000, 1), dtype=np.uint8), np.zeros((3, 1000))
    whole = Result(num_clbits=2, samples=samples, expectation_values=values, statevector=np.zeros((3, 1 << 10)))
    whole.metadata = {"engine": "statevector"}
    shown = repr(whole)
    assert shown.startswith("<Result of statevector: 3 x 100000 shots of 2 bits, expectation values [[0. 0. ")
    assert shown.endswith("statevector of shape (3, 1024)>")
    assert len(shown) < 300
    assert "\n" not in shown
    assert repr(Result()) == "<Result of no engine: nothing>"


def test_a_result_travels() -> None:
    made = Result(
        num_clbits=9, registers=(Register("a", tuple(range(9))),), shots=2, samples=samples_of(511, 3, num_bytes=2),
        expectation_values=np.array([[0.5]]), statevector=np.array([1, 1j], dtype=np.complex64),
        metadata={"seconds": {"plan": np.float64(0.5)}, "ranks": np.int64(2)},
    )  # fmt: skip
    back = travel(made)
    assert back.counts == made.counts
    assert (back.registers, back.shots, back.num_clbits) == (made.registers, 2, 9)
    assert back.statevector.dtype == np.complex64
    assert np.array_equal(back.statevector, made.statevector)
    assert back.expectation_values.shape == (1, 1)
    assert back.metadata == {"seconds": {"plan": 0.5}, "ranks": 2}


@pytest.mark.parametrize(
    "array", [np.zeros((0, 3)), np.array(2.5), np.arange(12.0).reshape(3, 4)[:, ::2], np.asfortranarray(np.eye(3))]
)
def test_arrays_of_every_layout_travel(array: np.ndarray) -> None:
    back = travel(Result(expectation_values=array)).expectation_values
    assert back.shape == array.shape
    assert np.array_equal(back, array)


@pytest.mark.parametrize(
    "wire", [("<f8", (3,), b"\0" * 16), ("|O", (1,), b"\0" * 8), ("<f8", (-1,), b"\0" * 8), ("<i4", (1,), b"\0" * 4)]
)
def test_a_broken_array_is_refused(wire: tuple[Any, ...]) -> None:
    data = msgspec.msgpack.encode({"samples": wire})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(Result, dec_hook=decode_hook).decode(data)


def test_a_broken_task_is_refused() -> None:
    data = msgspec.msgpack.encode({"circuit": BELL, "shots": "many"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.Decoder(Task, dec_hook=decode_hook).decode(data)


def test_a_circuit_is_known_by_its_content() -> None:
    named = msgspec.structs.replace(BELL, name="bell")
    assert named.hash == BELL.hash
    assert Circuit.from_bytes(named.bytes, "bell") == named
    assert Circuit(2, 2, BELL.instructions[:-1]).hash != BELL.hash
    for broken in (b"", b"\xc1", BELL.bytes[:-1], BELL.bytes + b"\0", b"\x93\1\2\3"):
        with pytest.raises(InvalidArgumentError, match="these bytes are not a circuit"):
            Circuit.from_bytes(broken)


def test_every_example_runs_as_it_is():
    """The demo, and `qsimenv submit examples/*.qasm` of the README, take them all."""
    files = sorted((Path(__file__).parents[2] / "examples").glob("*.qasm"))
    assert len(files) > 5
    for file in files:
        assert qs.Task(qs.load(file), shots=1).circuit.parameters == ()
