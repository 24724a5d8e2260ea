"""Any array, through any backend and any mode, gives what a serial loop gives."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cypar import Parallel, delayed
from cypar.transport.layout import Layout
from cypar.transport.memory import CallMemory

THRESHOLD = 1000  # max_nbytes: sizes lie around it

dtypes = st.one_of(
    hnp.scalar_dtypes(),
    hnp.array_dtypes(hnp.scalar_dtypes(), max_size=3),
    hnp.nested_dtypes(hnp.scalar_dtypes(), max_leaves=4),
    hnp.byte_string_dtypes(max_len=9),
    hnp.unicode_string_dtypes(max_len=5),
).filter(lambda dtype: dtype.itemsize > 0)


@st.composite
def arrays(draw):
    """Draw an array of any dtype, order, strides and offset, from a seed."""
    dtype = draw(dtypes)
    shape = draw(hnp.array_shapes(max_dims=4, max_side=9))
    size = int(np.prod(shape)) * dtype.itemsize
    # stretch one axis so that about half of the arrays are above the threshold
    factor = draw(
        st.sampled_from([1, 1 + THRESHOLD // size, 1 + 3 * THRESHOLD // size])
    )
    axis = draw(st.integers(0, len(shape) - 1))
    shape = tuple(n * factor if i == axis else n for i, n in enumerate(shape))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    array = np.frombuffer(random.bytes(n_bytes), "u1").copy()
    if dtype.kind == "U":  # not any bytes are text
        array = (array % 100).view("u1")
        array = np.array(
            ["".join(map(chr, row)) for row in array.reshape(-1, dtype.itemsize)], dtype
        )
    elif dtype.hasobject or dtype.names is not None or dtype.subdtype is not None:
        array = np.zeros(n_bytes, "u1").view(dtype) if not dtype.subdtype else array
    else:
        array = array.view(dtype)
    if dtype.kind == "b":
        array = array.view("u1") % 2 == 1
    array = array.reshape(shape) if array.size == int(np.prod(shape)) else array
    return draw(view_of(array))


def view_of(array):
    """Return a strategy for views of an array."""

    def make(order, slices, reverse, transposed, writable):
        view = np.asarray(array, order=order)
        for axis, (step, skip) in enumerate(slices[: view.ndim]):
            index = [slice(None)] * view.ndim
            index[axis] = slice(min(skip, view.shape[axis] - 1), None, step)
            view = view[tuple(index)]
        if reverse:
            view = view[::-1]
        if transposed:
            view = view.T
        view.flags.writeable = writable and view.flags.writeable
        return view

    steps = st.tuples(st.sampled_from([1, 1, 2, 5]), st.sampled_from([0, 0, 1]))
    return st.builds(
        make,
        st.sampled_from("CF"),
        st.lists(steps, max_size=4),
        st.booleans(),
        st.booleans(),
        st.booleans(),
    )


def describe(array):
    return (
        array.tobytes(),
        array.shape,
        array.dtype,
        isinstance(array, np.memmap),
        array.flags.writeable,
        array,
    )


MODES = [None, "r", "r+", "w+", "c"]


@pytest.mark.parametrize("backend", ["processes", "multiprocessing", "threading"])
@pytest.mark.parametrize("mode", MODES)
def test_any_array_arrives(backend, mode):
    # one pool for all examples of one backend and mode
    with Parallel(
        n_jobs=2, backend=backend, mmap_mode=mode, max_nbytes=THRESHOLD
    ) as run:

        @settings(
            max_examples=25,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.lists(arrays(), min_size=1, max_size=4))
        def check(many):
            serial = [describe(array) for array in many]
            for (content, shape, dtype, *_), got, array in zip(
                serial, run(delayed(describe)(a) for a in many), many, strict=True
            ):
                assert got[0] == content
                assert got[1:3] == (shape, dtype)
                result = got[5]
                assert result.tobytes() == content
                assert (result.shape, result.dtype) == (shape, dtype)
                if backend == "threading":
                    assert result is array
                    continue
                mapped = mode is not None and array.nbytes > THRESHOLD
                assert got[3] == mapped
                assert type(result) is np.ndarray
                assert result.flags.writeable
                if mapped:
                    assert got[4] == (mode != "r")

        check()


@settings(max_examples=200)
@given(arrays())
def test_the_layout_describes_the_array(array):
    layout = Layout(array)
    assert layout.low <= layout.first < layout.high
    assert layout.size <= 2 * max(array.nbytes, 1)
    if layout.strided is None:
        assert layout.strides == array.strides
        assert layout.offset == layout.first - layout.low
        assert layout.size == layout.high - layout.low
    else:
        assert layout.size == array.nbytes


@settings(max_examples=100)
@given(arrays(), st.sampled_from(MODES[1:]))
def test_an_unchanged_array_is_found_again_and_a_changed_one_is_not(array, mode):
    array = np.asarray(array, order="K")
    array.flags.writeable = array.base is None or array.base.flags.writeable
    memory = CallMemory(100, mode)
    try:
        first = places(memory, array)
        assert places(memory, array) == first
        if first is not None and array.dtype.kind in "iu" and array.flags.writeable:
            array[(-1,) * array.ndim] ^= 1
            assert places(memory, array) != first
    finally:
        memory.close()


def places(memory, array):
    """Return where the copies of an array lie; None if it stays in the pickle."""
    _, parcel = memory.dumps_task((array,), {})
    return None if parcel is None else [piece[1:] for piece in parcel.pieces]
