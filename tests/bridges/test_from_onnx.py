# SPDX-License-Identifier: MIT
"""from_onnx on models written by hand: what is found, what is one layer and what is not, and what is refused.

T time steps, B batch, I input size, H hidden size, L layers, D directions.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper
from onnx_models import BAD_CONSTANTS, GATES, REVERSE, batch_first, model_of, says, sparse, values

from fastrnn import GRU, LSTM, RNN
from fastrnn.onnx import from_onnx

I, H = 3, 4
CLASSES = {"RNN": RNN, "GRU": GRU, "LSTM": LSTM}

each_op = pytest.mark.parametrize("op", GATES)


def model(text, arrays, opset=18, inputs="float[T, B, 3] x"):
    """A model from ONNX's text format; the arrays are its initializers."""
    head = f'<ir_version: 8, opset_import: ["" : {opset}, "local" : 1]>'
    parsed = onnx.parser.parse_model(f"{head} model ({inputs}) => (y) {{ {text} }}")
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return parsed


def weights(op, end, input_size=I, hidden_size=H, D=1, dtype=np.float32):
    """W, R and B under names with this end."""
    fed = values(op, I=input_size, H=hidden_size, D=D, dtype=dtype, seed=len(op) + int(end or 0))
    return {name + end: fed[name] for name in "WRB"}


def run(parsed, x, **more):
    """What ONNX Runtime makes of x."""
    session = onnxruntime.InferenceSession(parsed.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x, **more})[0]


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


# -- one node --------------------------------------------------------------------------------------------------------


@each_op
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
@pytest.mark.parametrize("layout", [0, 1])
@pytest.mark.parametrize("without", ["", "B"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_node_is_a_layer(op, direction, layout, without, dtype):
    D = len(REVERSE[direction])
    fed = values(op, D=D, dtype=dtype, without=without, lengths=[3, 5, 0, 1])
    given = batch_first(fed) if layout else fed
    weights_of_it = [name for name in "WRB" if name in fed]
    (name, layer), *more = from_onnx(
        model_of(op, given, {"direction": direction, "layout": layout}, constants=weights_of_it)
    ).items()
    assert name == "cell" and not more and type(layer) is CLASSES[op]
    assert (layer.dtype, layer.bias, layer.batch_first, layer.num_layers) == (dtype, not without, bool(layout), 1)
    state = (fed["initial_h"], fed["initial_c"]) if op == "LSTM" else fed["initial_h"]
    out, ends = layer(given["X"], state, fed["sequence_lens"])
    Y, *expected = says(op, fed, direction)
    Y = Y.swapaxes(1, 2).reshape(5, 4, -1)
    close(out, Y.swapaxes(0, 1) if layout else Y)
    for end, theirs in zip(ends if op == "LSTM" else [ends], expected, strict=True):
        close(end, theirs)


def test_variants():
    fed = values("GRU", without=["initial_h"])
    for linear_before_reset in (0, 1):
        attributes = {"linear_before_reset": linear_before_reset}
        (layer,) = from_onnx(model_of("GRU", fed, attributes, constants="WRB")).values()
        assert layer.reset_after == bool(linear_before_reset)
        close(layer(fed["X"])[0], says("GRU", fed, linear_before_reset=linear_before_reset)[0][:, 0])
    fed = values("RNN", without=["initial_h"])
    (layer,) = from_onnx(model_of("RNN", fed, {"activations": ["Relu"]}, constants="WRB")).values()
    assert layer.nonlinearity == "relu"
    close(layer(fed["X"])[0], says("RNN", fed, act=[lambda z: np.maximum(z, 0)])[0][:, 0])


@pytest.mark.parametrize("half", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(half):
    fed = {name: array.astype(half) for name, array in values("LSTM").items()}
    (layer,) = from_onnx(model_of("LSTM", fed, constants="WRB")).values()
    assert layer.dtype == np.float32
    np.testing.assert_array_equal(layer.params["weight_ih_l0"][:6], fed["W"][0, :6].astype(np.float32))


def test_names_and_order():
    text = """
        [second] a = GRU <hidden_size = 4> (x, W, R, B)
        [first] b = GRU <hidden_size = 4> (x, W, R, B)
        c = GRU <hidden_size = 4> (x, W, R, B)
        d = GRU <hidden_size = 4> (x, W, R, B)
        y = Sum (a, b, c, d)
    """
    assert list(from_onnx(model(text, weights("GRU", "")))) == ["second", "first", "GRU", "GRU_1"]


# -- where weights come from -----------------------------------------------------------------------------------------


def test_three_nodes_without_a_name():
    node = "= RNN <hidden_size = 4> (x, W, R, B)"
    assert list(from_onnx(model(f"a {node} b {node} y {node}", weights("RNN", "")))) == ["RNN", "RNN_1", "RNN_2"]


def test_weights_in_constant_nodes_behind_identities_and_moved_about():
    """The exporter of torch.export leaves the reordering of gates to the graph if the weights are large."""
    text = """
        W0 = Constant <value_floats = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]> ()
        shape = Constant <value_ints = [2, 3]> ()
        W1 = Reshape (W0, shape)
        top, bottom = Split <num_outputs = 2> (W1)
        W2 = Concat <axis = 0> (bottom, top)
        zero = Constant <value_ints = [0]> ()
        W3 = Unsqueeze (W2, zero)
        same = Identity (R)
        twin = Identity (same)
        y = RNN <hidden_size = 2> (x, W3, twin, B)
    """
    arrays = weights("RNN", "", hidden_size=2)
    (layer,) = from_onnx(model(text, arrays)).values()
    np.testing.assert_array_equal(layer.params["weight_ih_l0"], [[4, 5, 6], [1, 2, 3]])
    np.testing.assert_array_equal(layer.params["weight_hh_l0"], arrays["R"][0])


def test_weights_that_are_computed_from_constants():
    """A weight norm that nobody folded, quantized weights, a bias in parts."""
    text = """
        norm = ReduceL2 <keepdims = 1> (W, axis)
        unit = Div (W, norm)
        W1 = Mul (unit, norm)
        R1 = DequantizeLinear (R8, scale, zero)
        root = Sqrt (two)
        square = Pow (root, two)
        less = Neg (square)
        rest = Sub (B, less)
        B1 = Add (rest, less)
        B2 = Flatten (B1)
        y = GRU <hidden_size = 4> (x, W1, R1, B2)
    """
    arrays = weights("GRU", "")
    arrays |= {"axis": np.array([2]), "two": np.array(2, np.float32), "scale": np.array(0.01, np.float32)}
    arrays |= {"R8": (arrays.pop("R") * 100).astype(np.int8), "zero": np.array(0, np.int8)}
    (layer,) = from_onnx(parsed := model(text, arrays, opset=21)).values()
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    close(layer(x)[0], run(parsed, x)[:, 0])


def test_sparse_weights():
    arrays = weights("RNN", "")
    parsed = model("y = RNN <hidden_size = 4> (x, W, R, B)", {name: arrays[name] for name in "RB"})
    (expected,) = from_onnx(model("y = RNN <hidden_size = 4> (x, W, R, B)", arrays)).values()
    for by_axis in (False, True):
        del parsed.graph.sparse_initializer[:]
        parsed.graph.sparse_initializer.append(sparse(arrays["W"], "W", by_axis))
        (layer,) = from_onnx(parsed).values()
        np.testing.assert_array_equal(layer.flat_params, expected.flat_params)


def test_a_sparse_weight_with_an_index_below_0():
    arrays = weights("RNN", "")
    parsed, W = model("y = RNN <hidden_size = 4> (x, W, R, B)", {n: arrays[n] for n in "RB"}), sparse(arrays["W"], "W")
    indices = numpy_helper.to_array(W.indices).copy()
    indices[-1] = -1
    W.indices.CopyFrom(numpy_helper.from_array(indices))
    parsed.graph.sparse_initializer.append(W)
    with pytest.raises(ValueError, match="or below 0"):
        from_onnx(parsed)


def test_a_sparse_weight_cannot_fill_the_memory():
    parsed = model("[cell] y = RNN <hidden_size = 4> (x, W, R)", weights("RNN", ""))
    del parsed.graph.initializer[0]
    parsed.graph.sparse_initializer.append(sparse(np.ones((1, 4, 3), np.float32), "W"))
    parsed.graph.sparse_initializer[0].dims[2] = 10**12
    with pytest.raises(
        ValueError, match=r"^RNN node 'cell', W: initializer 'W': needs .* got 12 values for shape \(1, 4"
    ):
        from_onnx(parsed)


def test_four_hundred_nodes_before_a_weight():
    text = " ".join(f"w{k + 1} = Identity (w{k})" for k in range(400))
    parsed = model(f"w0 = Identity (W) {text} y = RNN <hidden_size = 4> (x, w400, R)", weights("RNN", ""))
    assert layers_of(parsed) == {"RNN": 1}


def test_a_shape_that_the_model_states_cuts_weights():
    """As the exporter of torch.export does, if it does not optimize."""
    text = """
        size = Shape <start = 2> (h)
        zero = Constant <value_ints = [0]> ()
        axis = Constant <value_ints = [1]> ()
        W1 = Slice (W, zero, size, axis)
        y = RNN <hidden_size = 4> (x, W1, R, , , h)
    """
    arrays = weights("RNN", "") | {"W": np.ones((1, 9, 3), np.float32)}
    (layer,) = from_onnx(model(text, arrays, inputs="float[T, B, 3] x, float[1, B, 4] h")).values()
    assert (layer.params["weight_ih_l0"] == 1).all()
    with pytest.raises(ValueError, match=r"needs W to be a constant, got 'W1', which is computed"):
        from_onnx(model(text, arrays, inputs="float[T, B, 3] x, float[1, B, H] h"))


BRANCH = """
    y = If (condition) <
        then_branch = one () => (a) { [inner] a = LSTM <hidden_size = 4> (x, W, R, B) },
        else_branch = other () => (b) { [inner] b = LSTM <hidden_size = 4> (x, W, R2) }
    >
"""


def test_branches_see_the_weights_around_them():
    arrays = weights("LSTM", "") | {"R2": np.ones((1, 4 * H, H), np.float32)}
    parsed = model(BRANCH, arrays, inputs="bool condition, float[T, B, 3] x")
    layers = from_onnx(parsed)
    assert list(layers) == ["inner", "inner_1"]
    assert layers["inner"].bias and not layers["inner_1"].bias
    assert (layers["inner_1"].params["weight_hh_l0"] == 1).all()
    np.testing.assert_array_equal(layers["inner"].params["weight_ih_l0"][:H], arrays["W"][0, :H])


def test_a_branch_has_weights_of_its_own():
    arrays = weights("LSTM", "") | {"R2": np.ones((1, 4 * H, H), np.float32)}
    parsed = model(BRANCH, arrays, inputs="bool condition, float[T, B, 3] x")
    branch = parsed.graph.node[0].attribute[0].g
    branch.initializer.append(numpy_helper.from_array(np.full((1, 4 * H, I), 2, np.float32), "W"))
    layers = from_onnx(parsed)
    assert (layers["inner"].params["weight_ih_l0"] == 2).all() and not (layers["inner_1"].flat_params == 2).any()


def test_a_branch_reads_what_a_layer_outside_puts_out():
    text = """
        Y = GRU <hidden_size = 4, linear_before_reset = 1> (x, W, R, B)
        y = If (condition) <
            then_branch = one () => (a) {
                axis = Constant <value_ints = [1]> ()
                s = Squeeze (Y, axis)
                a = GRU <hidden_size = 4, linear_before_reset = 1> (s, W2, R2, B2)
            },
            else_branch = other () => (b) { b = Identity (x) }
        >
    """
    arrays = weights("GRU", "") | weights("GRU", "2", input_size=4)
    layers = from_onnx(model(text, arrays, inputs="bool condition, float[T, B, 3] x"))
    assert [repr(layer) for layer in layers.values()] == ["GRU(3, 4)", "GRU(4, 4)"]


def test_a_name_for_two_things_has_no_shape():
    def branch(given, end):
        return f"""{given}_ () => ({end}) {{
            v = Identity ({given})
            s = Shape <start = 2> (v)
            zero = Constant <value_ints = [0]> ()
            axis = Constant <value_ints = [2]> ()
            R1 = Slice (R, zero, s, axis)
            {end} = RNN <hidden_size = 4> (x, W, R1) }}"""

    text = f"y = If (condition) <then_branch = {branch('h', 'a')}, else_branch = {branch('g', 'b')}>"
    arrays = {"W": weights("RNN", "")["W"], "R": np.ones((1, 4, 9), np.float32)}
    parsed = model(text, arrays, inputs="bool condition, float[T, B, 3] x, float[1, 2, 4] h, float[1, 2, 5] g")
    for inner, size in zip((attribute.g for attribute in parsed.graph.node[0].attribute), (4, 5), strict=True):
        inner.value_info.append(helper.make_tensor_value_info("v", onnx.TensorProto.FLOAT, [1, 2, size]))
    with pytest.raises(ValueError, match="computed"):
        from_onnx(parsed)


def test_bodies_of_loops():
    text = """
        n = Constant <value_int = 2> ()
        go = Constant <value_int = 1> ()
        yes = Cast <to = 9> (go)
        y = Loop (n, yes, h) <body = step (int64 i, bool again, h_in) => (more, h_out) {
            more = Identity (again)
            [deep] Y, h_out = GRU <hidden_size = 4, linear_before_reset = 1> (x, W, R, B, , h_in)
        }>
    """
    parsed = model(text, weights("GRU", ""), inputs="float[T, B, 3] x, float[1, B, 4] h")
    (name, layer), *more = from_onnx(parsed).items()
    assert (name, repr(layer), more) == ("deep", "GRU(3, 4)", [])


def test_bodies_of_scans():
    text = """
        end, y = Scan <num_scan_inputs = 1, body = step (h_in, part) => (h_out, Y) {
            [deep] Y, h_out = GRU <hidden_size = 4, linear_before_reset = 1> (part, W, R, B, , h_in)
        }> (h, x)
    """
    parsed = model(text, weights("GRU", ""), inputs="float[N, T, B, 3] x, float[1, B, 4] h")
    (name, layer), *more = from_onnx(parsed).items()
    assert (name, repr(layer), more) == ("deep", "GRU(3, 4)", [])
    x, h = np.random.default_rng(0).standard_normal((3, 2, 5, I), np.float32), np.ones((1, 5, H), np.float32)
    close(layer(x.reshape(6, 5, I), h)[0].reshape(3, 2, 1, 5, H), run(parsed, x, h=h))


def test_graphs_in_the_graphs_of_scans():
    """A Scan in a branch, in its body another Scan and branches; their weights come from any graph around them."""
    text = """
        y = If (condition) <
            else_branch = other () => (a) { a = Identity (x) },
            then_branch = one () => (b) {
                R1 = Identity (R)
                b = Scan <num_scan_inputs = 1, body = outer (part) => (c) {
                    W2 = Identity (W)
                    d = Scan <num_scan_inputs = 1, body = inner (step) => (e) {
                        [deep] e = RNN <hidden_size = 4> (step, W2, R1, B)
                    }> (part)
                    c = If (condition) <
                        then_branch = two () => (f) { [deeper] f = RNN <hidden_size = 4> (x, W2, R1) },
                        else_branch = three () => (g) { [own] g = RNN <hidden_size = 4> (x, W2, R) }
                    >
                }> (x)
            }
        >
    """
    arrays = weights("RNN", "")
    parsed = model(text, arrays, inputs="bool condition, float[M, N, T, B, 3] x")
    branch = parsed.graph.node[0].attribute[1].g.node[1].attribute[1].g.node[2].attribute[1].g
    branch.initializer.append(numpy_helper.from_array(np.full((1, H, H), 2, np.float32), "R"))
    layers = from_onnx(parsed)
    assert {name: repr(layer) for name, layer in layers.items()} == {
        "deep": "RNN(3, 4)",
        "deeper": "RNN(3, 4, bias=False)",
        "own": "RNN(3, 4, bias=False)",
    }
    for name, layer in layers.items():
        np.testing.assert_array_equal(layer.params["weight_ih_l0"], arrays["W"][0])
        assert (layer.params["weight_hh_l0"] == (2 if name == "own" else arrays["R"][0])).all()


def test_functions_are_opened():
    head = '<ir_version: 8, opset_import: ["" : 18, "local" : 1]>'
    body = '<domain: "local", opset_import: ["" : 18]> cell <n> (a, w, r) => (b)'
    body += " { b = LSTM <hidden_size: int = @n> (a, w, r) }"
    parsed = onnx.parser.parse_model(
        f"{head} model (float[T, B, 3] x) => (y) {{ y = local.cell <n = 4> (x, W, R) }} {body}"
    )
    arrays = weights("LSTM", "")
    parsed.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in "WR")
    (layer,) = from_onnx(parsed).values()
    assert repr(layer) == "LSTM(3, 4, bias=False)"


@pytest.mark.parametrize("opset", [9, 14, 18])
def test_functions_of_an_older_opset_are_opened(opset):
    parsed = with_function(opset)
    (layer,) = from_onnx(parsed).values()
    assert repr(layer) == "LSTM(3, 4, bias=False)"
    np.testing.assert_array_equal(layer.params["weight_ih_l0"][:H], weights("LSTM", "")["W"][0, :H])


def with_function(opset, outside=18):
    """A model whose only node is a function of another opset."""
    head = f'<ir_version: 8, opset_import: ["" : {outside}, "local" : 1]>'
    body = f'<domain: "local", opset_import: ["" : {opset}]> cell (a, w, r) => (b)'
    body += " { c = LSTM <hidden_size = 4> (a, w, r) b = Identity (c) }"
    parsed = onnx.parser.parse_model(f"{head} model (float[T, B, 3] x) => (y) {{ y = local.cell (x, W, R) }} {body}")
    arrays = weights("LSTM", "")
    parsed.graph.initializer.extend(numpy_helper.from_array(arrays[name], name) for name in "WR")
    return parsed


def test_a_function_that_cannot_be_converted_is_named():
    with pytest.raises(
        ValueError, match=r"^path_or_model: needs functions of the model's own opset, 14, .* got cell \("
    ):
        from_onnx(with_function(22, 14))


def test_nodes_that_onnx_cannot_infer_shapes_of_do_not_matter():
    for other in ("z = Reshape (y)", "z = elsewhere.Foo (y)"):
        parsed = model("[cell] y = RNN <hidden_size = 4> (x, W, R)" + other, weights("RNN", ""))
        assert layers_of(parsed) == {"cell": 1}


def test_files(tmp_path):
    """With the weights in it, or in a file beside it."""
    fed = values("LSTM")
    parsed = model_of("LSTM", fed, constants="WRB")
    onnx.save(parsed, tmp_path / "whole.onnx")
    onnx.save(parsed, tmp_path / "parts.onnx", save_as_external_data=True, size_threshold=0, location="data")
    for path in (tmp_path / "whole.onnx", str(tmp_path / "parts.onnx")):
        (layer,) = from_onnx(path).values()
        state = fed["initial_h"], fed["initial_c"]
        close(layer(fed["X"], state)[0], says("LSTM", fed)[0][:, 0])
    apart = onnx.load(tmp_path / "parts.onnx", load_external_data=False)
    with pytest.raises(
        ValueError, match=r"^LSTM node 'cell', W: initializer 'W': needs its data, kept in another file"
    ):
        from_onnx(apart)


# -- stacks ----------------------------------------------------------------------------------------------------------

AXES = {"one": [1], "two": [2], "minus": [-3], "merge": [0, 0, -1]}
AXES |= {"sizes": [0, 0, 2 * H], "fixed": [6, 2, 2 * H], "zero": [0], "upto": [2], "last": [-1], "sixth": [6, 2, H]}
MERGED = "t = Transpose <perm = [0, 2, 1, 3]> (Y1) x2 = Reshape (t, merge)"
STACKED = {  # directions, layout, what lies between Y1 and x2
    "squeeze": (1, 0, "x2 = Squeeze (Y1, one)"),
    "squeeze from behind": (1, 0, "x2 = Squeeze (Y1, minus)"),
    "moved and merged": (1, 0, MERGED),
    "identities": (1, 0, "a = Identity (Y1) b = Squeeze (a, one) x2 = Identity (b)"),
    "moved, then squeezed": (1, 0, "t = Transpose <perm = [1, 0, 2, 3]> (Y1) x2 = Squeeze (t, zero)"),
    "one axis back and forth": (1, 0, "a = Squeeze (Y1, one) b = Unsqueeze (a, two) x2 = Squeeze (b, two)"),
    "its shape looked at": (1, 0, "x2 = Squeeze (Y1, one) s = Shape (x2) s1 = Shape (Y1)"),
    "both directions": (2, 0, MERGED),
    "both directions, by size": (2, 0, "t = Transpose <perm = [0, 2, 1, 3]> (Y1) x2 = Reshape (t, sizes)"),
    "by arithmetic on shapes": (
        2,
        0,
        """
        t = Transpose <perm = [0, 2, 1, 3]> (Y1)
        s = Shape (t)
        front = Slice (s, zero, upto)
        shape = Concat <axis = 0> (front, last)
        x2 = Reshape (t, shape)
        """,
    ),
    "layout 1": (1, 1, "x2 = Squeeze (Y1, two)"),
    "layout 1, both directions": (2, 1, "x2 = Reshape (Y1, merge)"),
}


def chain(op, D, layout, between, inputs="float[T, B, 3] x", opset=18):
    """Two nodes, the second fed through ``between``, with Linear layers before and after."""
    attributes = f'hidden_size = {H}, direction = "{"bidirectional" if D == 2 else "forward"}"'
    attributes += f", layout = {layout}" if layout else ""
    text = f"""
        u = MatMul (x, V)
        [encoder] Y1, h1 = {op} <{attributes}> (u, W1, R1, B1)
        {between}
        [again] Y2, h2 = {op} <{attributes}> (x2, W2, R2, B2)
        t2 = Transpose <perm = [{"0, 1, 2, 3" if layout else "0, 2, 1, 3"}]> (Y2)
        m2 = Reshape (t2, merge)
        y = Relu (m2)
    """
    arrays = weights(op, "1", D=D) | weights(op, "2", input_size=D * H, D=D)
    arrays |= {name: np.array(array, np.int64) for name, array in AXES.items()}
    return model(text, arrays | {"V": np.eye(I, dtype=np.float32)}, opset, inputs)


def layers_of(parsed):
    return {name: layer.num_layers for name, layer in from_onnx(parsed).items()}


@each_op
@pytest.mark.parametrize("case", STACKED)
def test_a_stack_is_one_layer(op, case):
    D, layout, between = STACKED[case]
    parsed = chain(op, D, layout, between)
    ((name, layer),) = from_onnx(parsed).items()
    assert (name, layer.num_layers, layer.bidirectional, layer.batch_first) == ("encoder", 2, D == 2, layout == 1)
    if not layout:  # which ONNX Runtime lacks
        x = values(op, T=6, B=2)["X"]
        close(np.maximum(layer(x)[0], 0), run(parsed, x))


def test_a_stack_whose_reshape_has_the_sizes_of_the_input():
    fixed = "t = Transpose <perm = [0, 2, 1, 3]> (Y1) x2 = Reshape (t, fixed)"
    parsed = chain("LSTM", 2, 0, fixed, inputs="float[6, 2, 3] x")
    assert layers_of(parsed) == {"encoder": 2}
    x = values("LSTM", T=6, B=2)["X"]
    (layer,) = from_onnx(parsed).values()
    close(np.maximum(layer(x)[0], 0), run(parsed, x))
    for inputs in ("float[T, B, 3] x", "float[6, B, 3] x", "float[2, 6, 3] x", "float[3, 4, 3] x"):
        assert layers_of(chain("LSTM", 2, 0, fixed, inputs)) == {"encoder": 1, "again": 1}


def test_sizes_too_large_to_try_leave_layers_apart():
    parsed = chain("LSTM", 1, 0, "x2 = Squeeze (Y1, one)", inputs="float[100000, 100000, 3] x")
    assert layers_of(parsed) == {"encoder": 1, "again": 1}


@pytest.mark.parametrize("opset", [7, 11])
def test_axes_that_are_attributes(opset):
    assert layers_of(chain("GRU", 1, 0, "x2 = Squeeze <axes = [1]> (Y1)", opset=opset)) == {"encoder": 2}


def test_three_layers():
    text = """
        Y1 = GRU <hidden_size = 4> (x, W1, R1, B1)
        x2 = Squeeze (Y1, one)
        Y2 = GRU <hidden_size = 4> (x2, W2, R2, B2)
        x3 = Squeeze (Y2, one)
        Y3 = GRU <hidden_size = 4> (x3, W2, R2, B2)
        y = Squeeze (Y3, one)
    """
    parsed = model(text, weights("GRU", "1") | weights("GRU", "2", H) | {"one": np.array([1])})
    (layer,) = from_onnx(parsed).values()
    assert layer.num_layers == 3
    x = values("GRU")["X"]
    close(layer(x)[0], run(parsed, x))


APART = {
    "a function between": (1, "a = Squeeze (Y1, one) x2 = Relu (a)"),
    "dropout between": (1, "a = Squeeze (Y1, one) x2 = Dropout (a)"),
    "only some steps": (1, "a = Squeeze (Y1, one) x2 = Slice (a, zero, upto)"),
    "time and batch swapped": (1, "a = Squeeze (Y1, one) x2 = Transpose <perm = [1, 0, 2]> (a)"),
    "squeezed of all that is one": (1, "x2 = Squeeze (Y1)"),
    "the output used": (1, "x2 = Squeeze (Y1, one) other = Abs (Y1)"),
    "the next input used": (1, "x2 = Squeeze (Y1, one) other = Abs (x2)"),
    "the next input used twice": (1, "x2 = Squeeze (Y1, one) other = GRU <hidden_size = 4> (x2, W2, R2, B2)"),
    "used in a branch": (
        1,
        """
        x2 = Squeeze (Y1, one)
        flag = Cast <to = 9> (one)
        other = If (flag) <then_branch = p () => (a) { a = Abs (x2) }, else_branch = q () => (b) { b = Abs (x) }>
        """,
    ),
    "another operator's Squeeze": (1, "x2 = local.Squeeze (Y1, one)"),
    "a Reshape of nothing": (1, "x2 = Reshape ()"),
    "a Reshape that nobody can follow": (1, "s = NonZero (x) x2 = Reshape (Y1, s)"),
    "the last state": (1, "x2 = Identity (h1)"),
    "directions not moved": (2, "x2 = Reshape (Y1, merge)"),
    "directions within units": (2, "t = Transpose <perm = [0, 2, 3, 1]> (Y1) x2 = Reshape (t, merge)"),
    "time within batch": (2, "t = Transpose <perm = [2, 0, 1, 3]> (Y1) x2 = Reshape (t, merge)"),
}


@pytest.mark.parametrize("case", APART)
def test_layers_stay_apart(case):
    D, between = APART[case]
    found = layers_of(chain("GRU", D, 0, between))
    assert found.pop("encoder") == found.pop("again") == 1
    assert not found or found == {"GRU": 1}


def test_what_the_model_puts_out_stays_apart():
    parsed = chain("GRU", 1, 0, "x2 = Squeeze (Y1, one)")
    parsed.graph.output.append(helper.make_tensor_value_info("x2", 1, None))
    assert layers_of(parsed) == {"encoder": 1, "again": 1}


UNLIKE = {
    "cell": "RNN <hidden_size = 4> (x2, W3, R3, B3)",
    "variant": "GRU <hidden_size = 4, linear_before_reset = 1> (x2, W2, R2, B2)",
    "hidden size": "GRU <hidden_size = 5> (x2, W4, R4, B4)",
    "bias": "GRU <hidden_size = 4> (x2, W2, R2)",
    "lengths": "GRU <hidden_size = 4> (x2, W2, R2, B2, lens)",
    "directions": 'GRU <hidden_size = 4, direction = "bidirectional"> (x2, W5, R5, B5)',
    "a state that only the first has": "GRU <hidden_size = 4> (x2, W2, R2, B2, , h1)",
    "a state made of it": "GRU <hidden_size = 4> (x2, W2, R2, B2, , h0)",
}


@pytest.mark.parametrize("case", UNLIKE)
def test_unlike_nodes_stay_apart(case):
    text = f"""
        [encoder] Y1, h1 = GRU <hidden_size = 4> (x, W1, R1, B1)
        x2 = Squeeze (Y1, one)
        h0 = Tanh (h1)
        [again] Y2 = {UNLIKE[case]}
        y = Abs (Y2)
    """
    arrays = weights("GRU", "1") | weights("GRU", "2", H) | weights("RNN", "3", H) | weights("GRU", "4", H, 5)
    arrays |= weights("GRU", "5", H, D=2) | {"one": np.array([1]), "lens": np.ones(4, np.int32)}
    assert layers_of(model(text, arrays)) == {"encoder": 1, "again": 1}


def test_a_state_from_the_first_layer_keeps_the_third_apart():
    text = """
        Y1, h1 = GRU <hidden_size = 4> (x, W1, R1, B1)
        x2 = Squeeze (Y1, one)
        Y2 = GRU <hidden_size = 4> (x2, W2, R2, B2)
        x3 = Squeeze (Y2, one)
        Y3 = GRU <hidden_size = 4> (x3, W2, R2, B2, , h1)
        y = Abs (Y3)
    """
    arrays = weights("GRU", "1") | weights("GRU", "2", H) | {"one": np.array([1])}
    assert layers_of(model(text, arrays)) == {"GRU": 2, "GRU_1": 1}


def test_a_state_from_a_branch_that_sees_the_first_layers():
    text = """
        Y, Y_h = GRU <hidden_size = 4, linear_before_reset = 1> (x, W, R, B, , h0)
        axis = Constant <value_ints = [1]> ()
        s = Squeeze (Y, axis)
        h = If (condition) <then_branch = one () => (a) { a = Identity (Y_h) },
                            else_branch = other () => (b) { b = Abs (Y_h) }>
        y = GRU <hidden_size = 4, linear_before_reset = 1> (s, W2, R2, B2, , h)
    """
    arrays = weights("GRU", "") | weights("GRU", "2", input_size=4) | {"h0": np.zeros((1, 4, 4), np.float32)}
    layers = from_onnx(model(text, arrays, inputs="bool condition, float[T, 4, 3] x"))
    assert [repr(layer) for layer in layers.values()] == ["GRU(3, 4)", "GRU(4, 4)"]


def test_sizes_that_a_model_states_as_negative():
    text = """
        Y = GRU <hidden_size = 4, linear_before_reset = 1> (x, W, R, B)
        axis = Constant <value_ints = [1]> ()
        s = Squeeze (Y, axis)
        y = GRU <hidden_size = 4, linear_before_reset = 1> (s, W2, R2, B2)
    """
    parsed = model(text, weights("GRU", "") | weights("GRU", "2", input_size=4))
    parsed.graph.value_info.append(helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, [-1, 1, -1, 4]))
    assert [repr(layer) for layer in from_onnx(parsed).values()] == ["GRU(3, 4, num_layers=2)"]


def test_a_state_of_the_right_shape_is_no_reason():
    """Exporters make zeros of the batch's size, which they take from the layer's input."""
    text = """
        Y1, h1 = GRU <hidden_size = 4> (x, W1, R1, B1, lens)
        x2 = Squeeze (Y1, one)
        s = Shape (h1)
        h0 = ConstantOfShape (s)
        Y2 = GRU <hidden_size = 4> (x2, W2, R2, B2, lens, h0)
        y = Abs (Y2)
    """
    arrays = weights("GRU", "1") | weights("GRU", "2", H) | {"one": np.array([1])}
    assert layers_of(model(text, arrays, inputs="float[T, B, 3] x, int32[B] lens")) == {"GRU": 2}


def test_a_circle_of_nodes_ends():
    text = """
        [encoder] Y1 = GRU <hidden_size = 4> (x, W1, R1, B1)
        a = Identity (b)
        b = Identity (a)
        [again] Y2 = GRU <hidden_size = 4> (a, W2, R2, B2)
        y = Abs (Y2)
    """
    parsed = model(text, weights("GRU", "1") | weights("GRU", "2", H))
    assert layers_of(parsed) == {"encoder": 1, "again": 1}
    parsed.graph.node[3].input[1] = "a"
    with pytest.raises(ValueError, match=r"^GRU node 'again': needs W to be a constant, got 'a', which is computed"):
        from_onnx(parsed)


# -- what is refused -------------------------------------------------------------------------------------------------

REFUSED = {
    "reverse": ({"direction": "reverse"}, "the reverse direction alone"),
    "clip": ({"clip": 2.0}, "clip=2.0"),
    "input_forget": ({"input_forget": 1}, "input_forget=1"),
    "activations": ({"activations": ["Sigmoid", "Tanh", "Relu"]}, r"activations \[\['Sigmoid', 'Tanh', 'Relu'\]\]"),
    "two": ({"clip": 2.0, "input_forget": 1}, "clip=2.0, input_forget=1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_layer_has(case):
    attributes, message = REFUSED[case]
    with pytest.raises(ValueError, match=f"^LSTM node 'cell': needs what a layer of fastrnn has, got {message}$"):
        from_onnx(model_of("LSTM", values("LSTM"), attributes, constants="WRB"))


def test_peepholes():
    with pytest.raises(ValueError, match=r"^LSTM node 'cell': needs what a layer of fastrnn has, got peepholes$"):
        from_onnx(model_of("LSTM", values("LSTM", peepholes=True), constants="WRBP"))


def test_unlike_directions():
    attributes = {"direction": "bidirectional", "activations": ["Tanh", "Relu"]}
    with pytest.raises(ValueError, match=r"got activations \[\['Tanh'\], \['Relu'\]\]$"):
        from_onnx(model_of("RNN", values("RNN", D=2), attributes, constants="WRB"))


def test_an_attribute_that_is_not_onnx():
    with pytest.raises(ValueError, match=r"^RNN node 'cell': needs no attribute 'zoneout', which is not ONNX's"):
        from_onnx(model_of("RNN", values("RNN"), {"zoneout": 0.5}, constants="WRB"))


BAD_ATTRIBUTES = {
    "text": ({"linear_before_reset": "no"}, "linear_before_reset: needs INT, got STRING"),
    "a float": ({"linear_before_reset": 1.5}, "linear_before_reset: needs INT, got FLOAT"),
    "one of several": ({"activations": 3}, "activations: needs STRINGS, got INT"),
    "one alpha": ({"activation_alpha": 0.5}, "activation_alpha: needs FLOATS, got FLOAT"),
    "no UTF-8": ({"direction": b"\xff"}, "direction: needs a value that can be read, got 'utf-8' codec"),
    "no UTF-8 in a list": ({"activations": ["Tanh", b"\xff"]}, "activations: needs a value that can be read, got"),
}


@pytest.mark.parametrize("case", BAD_ATTRIBUTES)
def test_attributes_of_the_wrong_type(case):
    attributes, message = BAD_ATTRIBUTES[case]
    with pytest.raises((TypeError, ValueError), match=f"^GRU node 'cell', {message}"):
        from_onnx(model_of("GRU", values("GRU"), attributes, constants="WRB"))


def twice(proto):
    proto.attribute.append(helper.make_attribute("hidden_size", 6))


def referring(proto):
    proto.attribute.append(helper.make_attribute("clip", 1.0))
    proto.attribute[-1].ref_attr_name = "c"


@pytest.mark.parametrize(
    ("change", "opset", "message"),
    [
        (twice, 22, ", hidden_size: needs to be there once, got it twice"),
        (referring, 22, ", clip: needs a value that can be read, got Cannot get value of reference attribute"),
        (lambda proto: proto.input.extend(["P"]), 22, ": needs at most 6 inputs, got 7"),
        (lambda proto: proto.output.extend(["c"]), 22, ": needs at most 2 outputs, got 3"),
        (lambda proto: proto.attribute.append(helper.make_attribute("layout", 1)), 7, ": needs no attribute 'layout'"),
        (lambda proto: None, 2**40, ": needs version 7, 14, 22 of its operator, got opset 1099511627776"),
    ],
)
def test_nodes_that_are_not_as_their_opset_says(change, opset, message):
    parsed = model_of("GRU", values("GRU"), constants="WRB", opset=opset)
    change(parsed.graph.node[0])
    with pytest.raises(ValueError, match=f"^GRU node 'cell'{message}"):
        from_onnx(parsed)


@pytest.mark.parametrize("change", BAD_CONSTANTS)
def test_weights_that_cannot_be_read(change):
    parsed = model_of("GRU", values("GRU"), constants="WRB")
    BAD_CONSTANTS[change](parsed.graph.initializer[0])
    with pytest.raises(
        ValueError, match=r"^GRU node 'cell', W: initializer 'W': needs data of its type and shape, got"
    ):
        from_onnx(parsed)


def test_two_values_of_one_name():
    parsed = model_of("GRU", values("GRU"), constants="WRB")
    parsed.graph.initializer.append(parsed.graph.initializer[0])
    with pytest.raises(ValueError, match=r"^path_or_model: needs values of different names, got 'W' 2 times in one"):
        from_onnx(parsed)


BOMBS = {
    "ConstantOfShape": "W = ConstantOfShape (large)",
    "Expand": "W = Expand (one, large)",
    "Gather": "i = ConstantOfShape <value = int64[1] {0}> (half) W = Gather <axis = 2> (row, i)",
    "Mul": "c = Expand (one, tall) r = Expand (one, wide) W = Mul (c, r)",
    "Concat": "w0 = Expand (one, half) " + " ".join(f"w{k + 1} = Concat <axis = 2> (w{k}, w{k})" for k in range(9)),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_small_model_cannot_fill_the_memory(case):
    arrays = weights("RNN", "") | {"large": np.array([1, 4, 10**9]), "half": np.array([1, 1, 2**17])}
    arrays |= {"tall": np.array([1, 2**15, 1]), "wide": np.array([1, 1, 2**15]), "row": np.ones((1, 2**9, 1), "f")}
    arrays |= {"one": np.ones((1, 1, 1), "f")}
    del arrays["W"]
    name = "w9" if case == "Concat" else "W"
    parsed = model(f"{BOMBS[case]} [cell] y = RNN <hidden_size = 4> (x, {name}, R)", arrays)
    with pytest.raises(ValueError, match=rf"^RNN node 'cell', W: value '\w+': needs at most .* got \d+ with {case}$"):
        from_onnx(parsed)


@pytest.mark.parametrize("name", ["W", "R", "B"])
def test_weights_that_are_no_constants(name):
    constants = [other for other in "WRB" if other != name]
    with pytest.raises(ValueError, match=f"^GRU node 'cell': needs {name} to be a constant, got '{name}', which is"):
        from_onnx(model_of("GRU", values("GRU"), constants=constants))


def test_inputs_that_are_missing():
    with pytest.raises(ValueError, match=r"^GRU node 'cell': needs inputs X, W and R, got X, R$"):
        from_onnx(model("[cell] y = GRU <hidden_size = 4> (x, , R)", weights("GRU", "")))


def test_versions_that_are_too_old():
    for opset in (0, 1, 6):
        with pytest.raises(ValueError, match=r"^GRU node 'cell': needs version 7, 14, 22 of its operator, got"):
            from_onnx(model("[cell] y = GRU <hidden_size = 4> (x, W, R)", weights("GRU", ""), opset))


def test_weights_of_the_wrong_shape():
    fed = values("GRU") | {"R": np.zeros((1, 18, 5), np.float32)}
    with pytest.raises(ValueError, match=r"^GRU node 'cell', R: needs shape \(D, 3\*H, H\) = \(1, 18, 6\), got"):
        from_onnx(model_of("GRU", fed, {"hidden_size": 6}, constants="WRB"))


def test_nothing_to_find():
    message = "^path_or_model: needs an RNN, GRU or LSTM node, got"
    text = "a = Abs (x) b = Relu (a) y = local.LSTM (b)"
    with pytest.raises(ValueError, match=f"{message} Abs, Relu, local.LSTM$"):
        from_onnx(model(text, {}))
    with pytest.raises(ValueError, match=f"{message} no operators$"):
        from_onnx(onnx.ModelProto())


def test_bad_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such"):
        from_onnx(tmp_path / "no such")
    with pytest.raises(OSError):
        from_onnx(tmp_path)
    for suffix in ("onnx", "json", "textproto", "onnxtxt"):
        path = tmp_path / f"noise.{suffix}"
        path.write_bytes(b"\x80not a model\xff\x00")
        with pytest.raises(ValueError, match=r"^path_or_model: needs an ONNX model, got .*noise"):
            from_onnx(path)
    for nothing in (None, 3, b"model", onnx.GraphProto()):
        with pytest.raises(TypeError, match=r"^path_or_model: needs a path or an onnx.ModelProto, got"):
            from_onnx(nothing)
