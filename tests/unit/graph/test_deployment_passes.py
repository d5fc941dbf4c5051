"""Passes that fold arithmetic and padding, and those for NVIDIA's DLA.

ONNX's reference evaluator is the oracle, on graphs one or two layers deep; whole networks are in
tests/contract/test_models.py.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from edge_inception.graph.passes import (
    explicit_padding,
    fold_affine,
    fold_input_affine,
    fold_pad,
    head_to_convolution,
    inclusive_average_pool,
    join_channels,
    matmul_to_gemm,
    norm_to_affine,
    sum_to_add,
)

# float32: sums of at most 27 x 4 products in another order, and weights rounded once more.
TOLERANCE = 1e-5
RNG = np.random.default_rng(23)
IMAGE = "(float[2,3,8,8] x) => (float[n,c,h,w] y)"


def parse(signature, body, opset=18, **weights):
    """A model in ONNX's text format with constants, and the shapes that follow."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def ops(model):
    return [node.op_type for node in model.graph.node]


def answer(model, images):
    return ReferenceEvaluator(model).run(None, {"x": images})[0]


def assert_fires(rewrite, model, left, shape=(2, 3, 8, 8)):
    """The pass leaves ``left``, the same numbers and a valid graph, and then rests."""
    images = normal(*shape)
    before = answer(model, images)
    assert rewrite(model) is True
    assert ops(model) == left
    again = onnx.ModelProto()
    again.CopyFrom(model)
    assert rewrite(model) is False
    assert model == again
    del again.graph.value_info[:]
    onnx.checker.check_model(again, full_check=True)
    after = answer(model, images)
    assert before.shape == after.shape
    assert np.abs(before).max() > 0.1
    assert np.abs(before - after).max() <= TOLERANCE * np.abs(before).max()


def assert_rests(rewrite, model):
    before = onnx.ModelProto()
    before.CopyFrom(model)
    assert rewrite(model) is False
    assert model == before


def kernel(**more):
    return {"w": normal(4, 3, 3, 3), "b": normal(4), **more}


class TestFoldAffine:
    rewrite = staticmethod(fold_affine.PASS)

    @pytest.mark.parametrize("shape", [(), (1,), (4, 1, 1), (1, 4, 1, 1), (1, 1, 1, 1)], ids=str)
    @pytest.mark.parametrize(
        "step", ["Mul(a,c)", "Mul(c,a)", "Div(a,c)", "Add(a,c)", "Add(c,a)", "Sub(a,c)", "Sub(c,a)"]
    )
    @pytest.mark.parametrize("inputs", ["x,w", "x,w,b"])
    def test_every_step_and_shape(self, inputs, step, shape):
        """Each op, with the constant on each side, for each shape that is one value per channel."""
        constant = (0.5 + np.abs(normal(*shape))).astype(np.float32)
        model = parse(IMAGE, f"a = Conv({inputs}) y = {step}", **kernel(c=constant))
        assert_fires(self.rewrite, model, ["Conv"])

    def test_a_residual_scale(self):
        """The scale of a residual branch goes into its 1 x 1 convolution; the Add stays."""
        body = "a = Conv(x, w, b) s = Mul(a, c) r = Add(x, s) y = Relu(r)"
        weights = {"w": normal(3, 3, 1, 1), "b": normal(3), "c": np.float32(0.17)}
        assert_fires(self.rewrite, parse(IMAGE, body, **weights), ["Conv", "Add", "Relu"])

    def test_a_chain_is_rounded_once(self):
        """Norm, scale and shift of Caffe: the weight is the float64 product, rounded once."""
        norm = {"g": normal(4), "t": normal(4), "m": normal(4), "v": np.abs(normal(4)) + 0.1}
        body = "a = Conv(x, w) n = BatchNormalization(a, g, t, m, v) s = Mul(n, c) y = Add(s, d)"
        weights = {"w": normal(4, 3, 3, 3), "c": normal(4, 1, 1), "d": normal(4, 1, 1)}
        model = parse(IMAGE, body, **weights, **norm)
        exact = {name: value.astype(np.float64) for name, value in {**weights, **norm}.items()}
        gain = exact["g"] / np.sqrt(exact["v"] + np.float64(np.float32(1e-5))) * exact["c"].ravel()
        assert_fires(self.rewrite, model, ["Conv"])
        found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        wanted = (exact["w"] * gain[:, None, None, None]).astype(np.float32)
        assert np.array_equal(found["w"], wanted)

    @pytest.mark.parametrize(
        ("gemm", "shape"), [("Gemm(f, w)", (3, 5)), ("Gemm<transB=1>(f, w, b)", (5, 3))]
    )
    def test_a_gemm(self, gemm, shape):
        """What follows a Gemm goes into it: the norm of an embedding, the bias of a MatMul."""
        norm = {"g": normal(5), "t": normal(5), "m": normal(5), "v": np.abs(normal(5)) + 0.1}
        body = f"f = Flatten(x) a = {gemm} n = BatchNormalization(a, g, t, m, v) y = Add(n, c)"
        model = parse(
            "(float[2,3,1,1] x) => (float[2,5] y)",
            body,
            w=normal(*shape),
            b=normal(1, 5),
            c=normal(5),
            **norm,
        )
        assert_fires(self.rewrite, model, ["Flatten", "Gemm"], (2, 3, 1, 1))

    @pytest.mark.parametrize(
        ("body", "constant"),
        [
            ("a = Conv(x,w) s = Mul(a,c) r = Relu(a) y = Add(s,r)", np.float32(2)),
            ("a = Conv(x,w) s = Mul(a,c) q = Conv(x,w) y = Concat<axis=1>(s,q)", np.float32(2)),
            ("a = Conv(x,w) y = Mul(a,a)", np.float32(2)),
            ("a = Conv(x,w) y = Div(c,a)", np.float32(2)),
            ("a = Conv(x,w) y = Div(a,c)", np.float32(0)),
            ("a = Conv(x,w) y = Mul(a,c)", np.ones(6, np.float32)),
            ("a = Conv(x,w) y = Mul(a,c)", np.ones((6, 6), np.float32)),
            ("a = Conv(x,w) y = Mul(a,c)", np.ones((2, 1, 1, 1), np.float32)),
            ("a = Conv(x,w) y = Mul(a,c)", np.ones((1, 1, 4, 1, 1), np.float32)),
            ("v = Abs(w) a = Conv(x,v) y = Mul(a,c)", np.float32(2)),
            ("a = Conv(x,w) r = Relu(a) y = Mul(r,c)", np.float32(2)),
        ],
    )
    def test_stays(self, body, constant):
        """Other readers, shared or computed weights, division by 0, one value per pixel or row."""
        model = parse("(float[2,3,8,8] x) => (y)", body, w=np.abs(normal(4, 3, 3, 3)), c=constant)
        assert_rests(self.rewrite, model)

    def test_stays_before_an_output(self):
        """A tensor that the graph returns keeps its values."""
        signature = "(float[2,3,8,8] x) => (float[n,c,h,w] a, float[n,c,h,w] y)"
        model = parse(
            signature, "a = Conv(x,w) y = Mul(a,c)", w=normal(4, 3, 3, 3), c=np.float32(2)
        )
        assert_rests(self.rewrite, model)


class TestSpellNorm:
    rewrite = staticmethod(norm_to_affine.PASS)

    @pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 3)])
    def test_a_norm_alone(self, shape):
        """A norm behind something else is a product and a sum."""
        norm = {"g": normal(3), "t": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.1}
        body = "y = BatchNormalization(x, g, t, m, v)"
        signature = f"(float[{','.join(map(str, shape))}] x) => (y)"
        assert_fires(self.rewrite, parse(signature, body, **norm), ["Mul", "Add"], shape)

    def test_stays_where_a_statistic_is_computed(self):
        """Without constants there is nothing to write."""
        norm = {"g": normal(3), "t": normal(3), "m": normal(3), "v": np.abs(normal(3)) + 0.1}
        body = "u = Abs(v) y = BatchNormalization(x, g, t, m, u)"
        assert_rests(self.rewrite, parse("(float[2,3,8,8] x) => (y)", body, **norm))


MEAN = np.float32([0.4, -0.3, 0.2]).reshape(1, 3, 1, 1)
SCALE = np.float32([0.5, 2.0, -1.5]).reshape(1, 3, 1, 1)


class TestFoldInputAffine:
    rewrite = staticmethod(fold_input_affine.PASS)

    @pytest.mark.parametrize("steps", ["a = Mul(x,s) n = Add(a,m)", "a = Sub(x,m) n = Div(a,s)"])
    @pytest.mark.parametrize("inputs", ["n,w", "n,w,b"])
    def test_without_padding(self, steps, inputs):
        """Both go into a stem without padding."""
        model = parse(IMAGE, f"{steps} y = Conv({inputs})", **kernel(m=MEAN, s=SCALE))
        assert_fires(self.rewrite, model, ["Conv"])

    @pytest.mark.parametrize("window", ["pads=[1,2,0,1]", 'auto_pad="SAME_UPPER"'])
    def test_with_padding(self, window):
        """Border pixels see zeros behind the normalisation, so a shift stays before the padding."""
        body = f"a = Mul(x,s) n = Add(a,m) y = Conv<{window}>(n,w,b)"
        assert_fires(self.rewrite, parse(IMAGE, body, **kernel(m=MEAN, s=SCALE)), ["Add", "Conv"])

    def test_scale_alone_with_padding(self):
        """Zeros times a scale are zeros."""
        body = "n = Mul(x,s) y = Conv<pads=[1,1,1,1]>(n,w,b)"
        assert_fires(self.rewrite, parse(IMAGE, body, **kernel(s=SCALE)), ["Conv"])

    @pytest.mark.parametrize(
        "body",
        [
            "n = Add(x,m) y = Conv<pads=[1,1,1,1]>(n,w)",
            "a = Mul(x,z) n = Add(a,m) y = Conv<pads=[1,1,1,1]>(n,w)",
            "n = Mul(x,s) q = Conv(x,w) r = Conv(n,v) y = Add(q,r)",
            "n = Mul(x,s) q = Relu(n) y = Conv(q,w)",
            "n = Mul(x,s) q = Abs(w) y = Conv(n,q)",
            "n = Mul(x,s) y = Conv<group=3>(n,d)",
            "n = Mul(x,p) y = Conv(n,w)",
        ],
    )
    def test_stays(self, body):
        """A shift before padding, zero scales, other readers, no constant weight, one per pixel."""
        more = {
            "v": normal(4, 3, 3, 3),
            "z": 0 * SCALE,
            "d": normal(3, 1, 3, 3),
            "p": normal(8, 8),
            "m": MEAN,
            "s": SCALE,
        }
        model = parse("(float[2,3,8,8] x) => (y)", body, **kernel(**more))
        assert_rests(self.rewrite, model)

    def test_stays_behind_a_cast(self):
        """Raw uint8 pixels are normalised in the graph, where int8 then has both signs."""
        body = "f = Cast<to=1>(x) n = Mul(f,s) y = Conv(n,w)"
        model = parse("(uint8[2,3,8,8] x) => (y)", body, **kernel(s=SCALE))
        assert_rests(self.rewrite, model)


class TestJoinChannels:
    rewrite = staticmethod(join_channels.PASS)
    gather = "g{i} = Gather<axis=1>(x,i{i}) u{i} = Unsqueeze(g{i},one)"
    cut = "u{i} = Slice(x,k{i},k{j},one,one)"

    def model(self, take, order=(0, 1, 2), signature="(float[2,3,8,8] x) => (y)"):
        step = " m{i} = Mul(u{i},s{i}) a{i} = Add(m{i},t{i}) "
        body = "".join((take + step).format(i=i, j=i + 1) for i in range(3))
        body += f"y = Concat<axis=1>({','.join(f'a{i}' for i in order)})"
        numbers = {f"i{i}": np.int64(i) for i in range(3)}
        numbers |= {f"k{i}": np.int64([i]) for i in range(4)}
        numbers |= {f"{n}{i}": np.float32(0.3 + i + (n == "t")) for i in range(3) for n in "st"}
        return parse(signature, body, one=np.int64([1]), **numbers)

    @pytest.mark.parametrize("take", [gather, cut])
    def test_channels_in_order(self, take):
        """torchvision's transform_input becomes one Mul and one Add; what it left is unused."""
        model = self.model(take)
        images = normal(2, 3, 8, 8)
        before = answer(model, images)
        assert self.rewrite(model) is True
        assert ops(model)[-2:] == ["Mul", "Add"]
        assert np.allclose(answer(model, images), before, rtol=1e-6, atol=1e-6)
        assert self.rewrite(model) is False

    @pytest.mark.parametrize("order", [(2, 1, 0), (0, 1), (0, 0, 1, 2)])
    def test_stays_on_another_order(self, order):
        """RGB to BGR, a channel left out and one taken twice are no plain arithmetic."""
        assert_rests(self.rewrite, self.model(self.gather, order))


class TestFoldPad:
    rewrite = staticmethod(fold_pad.PASS)
    border = np.int64([0, 0, 0, 1, 0, 0, 1, 2])

    @pytest.mark.parametrize(
        ("op", "left"),
        [
            ("Conv<pads=[1,1,1,1],strides=[2,2]>(p,w,b)", "Conv"),
            ("Conv(p,w,b)", "Conv"),
            ("AveragePool<kernel_shape=[3,3],count_include_pad=1>(p)", "AveragePool"),
            ("AveragePool<kernel_shape=[3,3]>(p)", "AveragePool"),
            (
                "AveragePool<kernel_shape=[4,4],pads=[1,1,1,1],count_include_pad=1>(p)",
                "AveragePool",
            ),
        ],
    )
    def test_zeros(self, op, left):
        """Zeros go into a Conv, and into an average that counts them."""
        model = parse(IMAGE, f"p = Pad(x,q) y = {op}", **kernel(q=self.border))
        before = answer(model, images := normal(2, 3, 8, 8))
        assert self.rewrite(model) is True
        assert model.graph.node[-1].op_type == left
        assert model.graph.node[-1].input[0] == "x"
        after = answer(model, images)
        assert before.shape == after.shape
        assert np.abs(before - after).max() <= TOLERANCE * np.abs(before).max()
        assert self.rewrite(model) is False

    def test_axes(self):
        """Axes of opset 18 say what is padded, also counted from behind."""
        body = "p = Pad(x,q,,e) y = Conv(p,w)"
        weights = kernel(q=np.int64([1, 0, 0, 2]), e=np.int64([-2, -1]))
        model = parse(IMAGE, body, **weights)
        before = answer(model, images := normal(2, 3, 8, 8))
        assert self.rewrite(model) is True
        assert np.allclose(answer(model, images), before, atol=1e-5)

    @pytest.mark.parametrize(
        "body",
        [
            "r = Relu(x) p = Pad(r,q) y = MaxPool<kernel_shape=[3,3],strides=[2,2]>(p)",
            "p = Pad(x,q,low) y = MaxPool<kernel_shape=[3,3],strides=[2,2]>(p)",
            "p = Pad(x,q,lowest) y = MaxPool<kernel_shape=[3,3],strides=[2,2]>(p)",
        ],
    )
    def test_maximum(self, body):
        """Minus infinity never wins, and neither does 0 among numbers that are not negative."""
        extra = {"low": np.float32(-np.inf), "lowest": np.finfo(np.float32).min}
        model = parse(IMAGE, body, q=self.border, **extra)
        before = answer(model, images := normal(2, 3, 8, 8))
        assert self.rewrite(model) is True
        assert np.array_equal(answer(model, images), before)
        assert self.rewrite(model) is False

    def test_other_readers_keep_the_pad(self):
        """A reader that cannot take the padding still reads the Pad."""
        body = "p = Pad(x,q) c = Conv(p,w) r = Relu(p) d = Conv(r,w) y = Add(c,d)"
        model = parse(IMAGE, body, **kernel(q=self.border))
        before = answer(model, images := normal(2, 3, 8, 8))
        assert self.rewrite(model) is True
        assert ops(model) == ["Pad", "Conv", "Relu", "Conv", "Add"]
        assert np.allclose(answer(model, images), before, atol=1e-5)

    @pytest.mark.parametrize(
        ("body", "border"),
        [
            ("p = Pad(x,q,one) y = Conv(p,w)", [0, 0, 1, 1, 0, 0, 1, 1]),
            ('p = Pad<mode="reflect">(x,q) y = Conv(p,w)', [0, 0, 1, 1, 0, 0, 1, 1]),
            ("p = Pad(x,q) y = Conv(p,w)", [0, 0, -1, 1, 0, 0, 1, 1]),
            ("p = Pad(x,q) y = Conv(p,v)", [0, 1, 0, 0, 0, 0, 0, 0]),
            ("p = Pad(x,q) y = MaxPool<kernel_shape=[3,3]>(p)", [0, 0, 1, 1, 0, 0, 1, 1]),
            (
                "r = Relu(x) p = Pad(r,q) y = MaxPool<kernel_shape=[2,2]>(p)",
                [0, 0, 2, 0, 0, 0, 0, 0],
            ),
            (
                "p = Pad(x,q) y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(p)",
                [0, 0, 1, 1, 0, 0, 1, 1],
            ),
            (
                "p = Pad(x,q) y = AveragePool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(p)",
                [0, 0, 1, 1, 0, 0, 1, 1],
            ),
            ("p = Pad(x,q,one) y = AveragePool<kernel_shape=[3,3]>(p)", [0, 0, 1, 1, 0, 0, 1, 1]),
        ],
    )
    def test_stays(self, body, border):
        """Other values and modes, cropping, channels, negative maxima, padding of two kinds."""
        weights = kernel(q=np.int64(border), one=np.float32(1), v=normal(4, 4, 3, 3))
        assert_rests(self.rewrite, parse("(float[2,3,8,8] x) => (y)", body, **weights))

    @given(
        pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
        own=st.lists(st.integers(0, 1), min_size=4, max_size=4),
        side=st.integers(1, 4),
        stride=st.integers(1, 3),
        is_counted=st.booleans(),
    )
    @settings(max_examples=60, deadline=None)
    def test_average_never_changes(self, pads, own, side, stride, is_counted):
        """Whatever the padding, an average that takes it gives the same numbers."""
        own = [min(each, side - 1) for each in own]
        window = f"kernel_shape=[{side},{side}],strides=[{stride},{stride}],pads={own}"
        body = f"p = Pad(x,q) y = AveragePool<{window},count_include_pad={int(is_counted)}>(p)"
        border = np.int64([0, 0, *pads[:2], 0, 0, *pads[2:]])
        model = parse(IMAGE, body, q=border)
        before = answer(model, images := normal(2, 3, 8, 8))
        self.rewrite(model)
        assert np.abs(answer(model, images) - before).max() <= TOLERANCE * np.abs(before).max()


class TestSumToAdd:
    rewrite = staticmethod(sum_to_add.PASS)

    @pytest.mark.parametrize(
        ("inputs", "left"), [("x", ["Identity"]), ("x,c", ["Add"]), ("x,c,x", ["Add", "Add"])]
    )
    def test_any_number(self, inputs, left):
        """One is the tensor itself, two an Add, three a chain; shapes broadcast as before."""
        model = parse(IMAGE, f"y = Sum({inputs})", c=normal(3, 1, 1))
        assert_fires(self.rewrite, model, left)

    def test_stays_on_an_add(self):
        """Nothing to do is said."""
        assert_rests(self.rewrite, parse("(float[2] x) => (y)", "y = Add(x,x)"))


class TestMatmulToGemm:
    rewrite = staticmethod(matmul_to_gemm.PASS)

    def test_a_matrix(self):
        """A product with a constant matrix is a Gemm without bias."""
        model = parse("(float[2,3] x) => (y)", "y = MatMul(x,w)", w=normal(3, 5))
        assert_fires(self.rewrite, model, ["Gemm"], (2, 3))

    @pytest.mark.parametrize("bias", [(5,), (1, 5), (1, 1, 5)])
    @pytest.mark.parametrize("step", ["Add(m, b)", "Add(b, m)"])
    def test_rows_of_a_stack(self, bias, step):
        """The layers of a transformer, which share the first Reshape and take in their biases."""
        body = f"m = MatMul(x, w) p = {step} q = MatMul(x, v) y = Add(p, q)"
        weights = {"w": normal(64, 5), "v": normal(64, 5), "b": normal(*bias)}
        model = parse("(float[2,3,8,64] x) => (y)", body, **weights)
        left = ["Reshape", "Gemm", "Reshape", "Gemm", "Reshape", "Add"]
        assert_fires(self.rewrite, model, left, (2, 3, 8, 64))
        assert [len(node.input) for node in model.graph.node if node.op_type == "Gemm"] == [3, 2]

    def test_a_free_batch(self):
        """Only the first size may be free: it is what the last Reshape finds out."""
        model = parse("(float[n,8,64] x) => (y)", "y = MatMul(x, w)", w=normal(64, 5))
        assert_fires(self.rewrite, model, ["Reshape", "Gemm", "Reshape"], (3, 8, 64))

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[2,n,64] x) => (y)", "y = MatMul(x,w)"),
            ("(float[2,64] x) => (y)", "v = Abs(w) y = MatMul(x,v)"),
            ("(float[2,64] x) => (y)", "v = Abs(x) y = MatMul(v,s)"),
            ("(float[2,5,64] x) => (y)", "y = MatMul(w,x)"),
        ],
    )
    def test_stays(self, signature, body):
        """A free size inside, a weight that is computed or a stack, or one on the left."""
        weights = {"w": normal(64, 5), "s": normal(2, 64, 5)}
        assert_rests(self.rewrite, parse(signature, body, **weights))

    def test_a_bias_per_row_stays(self):
        """An Add of another shape than one number per channel is no bias."""
        body = "m = MatMul(x, w) y = Add(m, b)"
        model = parse("(float[2,8,64] x) => (y)", body, w=normal(64, 5), b=normal(8, 1))
        assert_fires(self.rewrite, model, ["Reshape", "Gemm", "Reshape", "Add"], (2, 8, 64))


class TestPlainWindows:
    rewrite = staticmethod(explicit_padding.PASS)

    @given(
        mode=st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]),
        side=st.integers(1, 4),
        stride=st.integers(1, 3),
        op=st.sampled_from(["AveragePool", "MaxPool"]),
    )
    @settings(max_examples=40, deadline=None)
    def test_sizes_of_auto_pad(self, mode, side, stride, op):
        """onnxruntime gives the same with the pads written out."""
        step = min(stride, side)  # onnxruntime refuses padding of a whole window
        window = f"kernel_shape=[{side},{side}],strides=[{step},{step}]"
        model = parse(IMAGE, f'y = {op}<auto_pad="{mode}",{window}>(x)')
        images = normal(2, 3, 8, 8)
        before = self.run(model, images)
        assert self.rewrite(model) is True
        assert not any(entry.name == "auto_pad" for entry in model.graph.node[0].attribute)
        assert np.allclose(before, self.run(model, images), atol=1e-6)
        assert self.rewrite(model) is False

    @staticmethod
    def run(model, images):
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": images})[0]

    @pytest.mark.parametrize("op", ["AveragePool", "MaxPool"])
    def test_ceil_mode_where_it_does_nothing(self, op):
        """Windows that fit need no rounding; a MaxPool whose windows do not fit keeps it."""
        fits = parse(IMAGE, f"y = {op}<kernel_shape=[2,2],strides=[2,2],ceil_mode=1>(x)")
        assert_fires(self.rewrite, fits, [op])
        assert not any(entry.name == "ceil_mode" for entry in fits.graph.node[0].attribute)
        body = "y = MaxPool<kernel_shape=[3,3],strides=[2,2],ceil_mode=1>(x)"
        assert_rests(self.rewrite, parse(IMAGE, body))

    def test_stays_on_free_sizes(self):
        """What depends on a free size cannot be written."""
        body = 'y = MaxPool<auto_pad="SAME_UPPER",kernel_shape=[3,3],strides=[2,2]>(x)'
        assert_rests(self.rewrite, parse("(float[2,3,h,w] x) => (y)", body))


class TestHeadToConvolution:
    rewrite = staticmethod(head_to_convolution.PASS)
    signature = "(float[2,3,8,8] x) => (float[2,5] y)"

    @pytest.mark.parametrize(
        ("gemm", "shape"),
        [("Gemm(f,w)", (3, 5)), ("Gemm(f,w,b)", (3, 5)), ("Gemm<transB=1>(f,w,b)", (5, 3))],
    )
    def test_head(self, gemm, shape):
        """Pool, Flatten and Gemm become a pool of the map's size, a convolution and a Flatten."""
        body = f"g = GlobalAveragePool(x) f = Flatten(g) y = {gemm}"
        model = parse(self.signature, body, w=normal(*shape), b=normal(5))
        assert_fires(self.rewrite, model, ["AveragePool", "Conv", "Flatten"])

    def test_head_with_a_hidden_layer(self):
        """All Gemms and the ReLU between come before the Flatten; names keep their values."""
        body = "g = GlobalAveragePool(x) f = Flatten(g) h = Gemm(f,v,c) r = Relu(h) y = Gemm(r,w,b)"
        weights = {"v": normal(3, 4), "c": normal(4), "w": normal(4, 5), "b": normal(5)}
        model = parse(self.signature, body, **weights)
        images = normal(2, 3, 8, 8)
        shown = ("f", "h", "r", "y")
        before = ReferenceEvaluator(model).run(list(shown), {"x": images})
        assert_fires(self.rewrite, model, ["AveragePool", "Conv", "Relu", "Conv", "Flatten"])
        after = ReferenceEvaluator(model).run(list(shown), {"x": images})
        for name, old, new in zip(shown, before, after, strict=True):
            assert np.allclose(new.reshape(old.shape), old, rtol=1e-5, atol=1e-6), name

    def test_what_follows_the_last_gemm_stays_behind_the_flatten(self):
        """A ReLU at the end is no layer of the head, and neither is a softmax."""
        body = "g = GlobalAveragePool(x) f = Flatten(g) h = Gemm(f,w) r = Relu(h) y = Softmax(r)"
        model = parse(self.signature, body, w=normal(3, 5))
        left = ["AveragePool", "Conv", "Flatten", "Relu", "Softmax"]
        assert_fires(self.rewrite, model, left)

    @pytest.mark.parametrize(
        ("signature", "body"),
        [
            ("(float[2,3,h,w] x) => (y)", "g = GlobalAveragePool(x) f = Flatten(g) y = Gemm(f,w)"),
            (signature, "g = GlobalAveragePool(x) f = Flatten(g) v = Abs(w) y = Gemm(f,v)"),
            (signature, "g = GlobalAveragePool(x) f = Flatten(g) y = Gemm<alpha=2.0>(f,w)"),
            (
                signature,
                "g = GlobalAveragePool(x) f = Flatten(g) h = Gemm(f,w) i = Gemm(f,w) y = Add(h,i)",
            ),
        ],
    )
    def test_stays(self, signature, body):
        """A free size, a computed weight, a factor, and a second reader."""
        assert_rests(self.rewrite, parse(signature, body, w=normal(3, 5)))


class TestInclusiveAveragePool:
    rewrite = staticmethod(inclusive_average_pool.PASS)

    @given(
        pads=st.lists(st.integers(0, 2), min_size=4, max_size=4).filter(any),
        sides=st.tuples(st.integers(3, 4), st.integers(3, 4)),
        strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    )
    @settings(max_examples=40, deadline=None)
    def test_any_window(self, pads, sides, strides):
        """The map undoes what the padding did to the average, at every border."""
        body = f"y = AveragePool<kernel_shape={[*sides]},pads={pads},strides={[*strides]}>(x)"
        assert_fires(self.rewrite, parse(IMAGE, body), ["AveragePool", "Mul"])

    def test_map_of_three_by_three(self):
        """9/9 inside, 9/6 at edges, 9/4 in corners."""
        model = parse(IMAGE, "y = AveragePool<kernel_shape=[3,3],pads=[1,1,1,1]>(x)")
        self.rewrite(model)
        (factors,) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
        assert factors.shape == (1, 3, 8, 8)
        assert (factors[0, :, :2, :2] == [[2.25, 1.5], [1.5, 1.0]]).all()

    @pytest.mark.parametrize(
        ("signature", "window"),
        [
            ("(float[2,3,8,8] x) => (y)", "kernel_shape=[3,3]"),
            ("(float[2,3,8,8] x) => (y)", "kernel_shape=[3,3],pads=[1,1,1,1],count_include_pad=1"),
            ("(float[2,3,h,w] x) => (y)", "kernel_shape=[3,3],pads=[1,1,1,1]"),
        ],
    )
    def test_stays(self, signature, window):
        """No padding, padding that counts already, and free sizes."""
        assert_rests(self.rewrite, parse(signature, f"y = AveragePool<{window}>(x)"))
