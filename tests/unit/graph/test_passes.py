"""Each pass fires, does not fire where it must not, keeps the numbers, and settles at once."""

from __future__ import annotations

import re
import traceback

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from edge_inception.errors import CompileFailed, EdgeInceptionError, InputError
from edge_inception.graph import dla, simplify
from edge_inception.graph.passes import (
    fold_affine,
    name_tensors,
    pool_behind_conv,
    pool_head,
    remove_identity,
    remove_unused,
)
from edge_inception.graph.passes._contract import Pass, run_passes

# float32 with sums in another order; the graphs below are one layer deep.
TOLERANCE = 1e-5
RNG = np.random.default_rng(11)


def parse(signature, body, opset=18, **weights):
    """A model in ONNX's text format, with float32 weights."""
    text = f'<ir_version: 8, opset_import: ["" : {opset}]> graph {signature} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for name, value in weights.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)


def copy(model):
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    return twin


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def ops(model):
    return [node.op_type for node in model.graph.node]


def answer(model, images):
    return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: images})


def assert_fires(rewrite, model, images):
    """Run the pass and hold it to all it promises; ONNX's reference evaluator is the oracle."""
    before = answer(model, images)
    assert rewrite(model) is True
    onnx.checker.check_model(model, full_check=True)
    for old, new in zip(before, answer(model, images), strict=True):
        assert old.shape == new.shape
        assert np.abs(old - new).max() <= TOLERANCE * np.abs(old).max()
    settled = copy(model)
    assert rewrite(model) is False
    assert model == settled


def assert_rests(rewrite, model):
    before = copy(model)
    assert rewrite(model) is False
    assert model == before


class TestPoolBehindConv:
    rewrite = staticmethod(pool_behind_conv.PASS)

    def net(self, pool, *, outputs=2, bias=True, conv="", shape=(1, 1), tail="y = Relu(c)"):
        weights = {"w": normal(outputs, 4, *shape)} | ({"b": normal(outputs)} if bias else {})
        body = f"""p = AveragePool<kernel_shape=[3, 3], {pool}>(x)
            c = Conv{conv}(p, w{", b" if bias else ""}) {tail}"""
        return parse("(float[1, 4, 6, 6] x) => (float[n, o, h, v] y)", body, **weights)

    @pytest.mark.parametrize(
        ("pool", "bias"),
        [
            ("pads=[1, 1, 1, 1]", True),
            ("pads=[1, 1, 1, 1], count_include_pad=1", False),
            ("pads=[0, 1, 1, 0], ceil_mode=1", True),
            ("strides=[1, 1]", True),
            ('auto_pad="SAME_UPPER"', True),
        ],
    )
    def test_both_orders_give_the_same(self, pool, bias):
        model = self.net(pool, bias=bias)
        assert_fires(self.rewrite, model, normal(1, 4, 6, 6))
        assert ops(model) == ["Conv", "AveragePool", "Relu"]

    @pytest.mark.parametrize(
        "change",
        [
            {"pool": "pads=[1, 1, 1, 1], count_include_pad=1"},  # the border averages no bias
            {"pool": "strides=[2, 2]"},  # the convolution would read four times the pixels
            {"pool": "strides=[1, 1]", "outputs": 5},
            {"pool": "strides=[1, 1]", "shape": (3, 3)},
            {"pool": "strides=[1, 1]", "conv": "<strides=[2, 2]>"},
            {"pool": "strides=[1, 1]", "tail": "r = Relu(p) y = Concat<axis=1>(c, r)"},
        ],
    )
    def test_what_would_not_gain_or_not_be_equal_rests(self, change):
        assert_rests(self.rewrite, self.net(**change))


class TestRemoveIdentity:
    rewrite = staticmethod(remove_identity.PASS)

    @pytest.mark.parametrize("op", ["Identity", "Dropout"])
    def test_middle(self, op):
        """An identity between two nodes goes."""
        model = parse(
            "(float[2,3] x) => (float[2,3] y)", f"a = Relu(x)  b = {op}(a)  y = Sigmoid(b)"
        )
        assert_fires(self.rewrite, model, normal(2, 3))
        assert ops(model) == ["Relu", "Sigmoid"]

    def test_before_an_output(self):
        """The output keeps its name; other readers of the source follow."""
        model = parse(
            "(float[2] x) => (float[2] y, float[2] z)", "a = Relu(x) y = Identity(a) z = Neg(a)"
        )
        assert_fires(self.rewrite, model, normal(2))
        assert ops(model) == ["Relu", "Neg"]

    def test_chain_to_the_output(self):
        """Several in a row all go."""
        model = parse("(float[2] x) => (float[2] y)", "a = Relu(x) b = Identity(a) y = Identity(b)")
        assert_fires(self.rewrite, model, normal(2))
        assert ops(model) == ["Relu"]

    def test_stays_between_input_and_output(self):
        """A graph may not return its own input under another name."""
        model = parse("(float[2] x) => (float[2] y)", "y = Identity(x)")
        assert_rests(self.rewrite, model)

    def test_stays_between_two_outputs(self):
        """Two outputs are two tensors."""
        model = parse("(float[2] x) => (float[2] a, float[2] y)", "a = Relu(x) y = Identity(a)")
        assert_rests(self.rewrite, model)

    def test_stays_where_the_mask_is_read(self):
        """A Dropout whose mask is used is more than an identity."""
        model = parse(
            "(float[2] x) => (float[2] y, bool[2] m)",
            "a = Relu(x) y, mask = Dropout(a) m = Not(mask)",
        )
        assert_rests(self.rewrite, model)


class TestFoldAffineNorm:
    rewrite = staticmethod(fold_affine.PASS)
    signature = "(float[2,3,6,6] x) => (float[2,4,4,4] y)"
    norm = "BatchNormalization<epsilon=0.001>(a, gamma, beta, mean, variance)"

    def weights(self, **more):
        variance = RNG.uniform(0.01, 4, 4).astype(np.float32)
        statistics = {"gamma": normal(4), "beta": normal(4), "mean": normal(4)}
        return {"w": normal(4, 3, 3, 3), **statistics, "variance": variance, **more}

    def test_without_bias(self):
        """The norm becomes a bias and another kernel."""
        model = parse(self.signature, f"a = Conv(x, w) y = {self.norm}", **self.weights())
        assert_fires(self.rewrite, model, normal(2, 3, 6, 6))
        assert ops(model) == ["Conv"]

    def test_with_bias(self):
        """A bias that is there is scaled with the kernel."""
        weights = self.weights(b=normal(4))
        model = parse(self.signature, f"a = Conv(x, w, b) y = {self.norm}", **weights)
        assert_fires(self.rewrite, model, normal(2, 3, 6, 6))
        assert ops(model) == ["Conv"]

    def test_stays_when_the_convolution_is_read_twice(self):
        """Folding would change what the other reader sees."""
        body = f"a = Conv(x, w) b = {self.norm} c = Relu(a) y = Add(b, c)"
        assert_rests(self.rewrite, parse(self.signature, body, **self.weights()))

    def test_stays_when_the_kernel_is_shared(self):
        """Folding would change the other convolution."""
        body = f"a = Conv(x, w) b = {self.norm} c = Conv(x, w) y = Add(b, c)"
        assert_rests(self.rewrite, parse(self.signature, body, **self.weights()))

    def test_stays_without_a_convolution(self):
        """A norm behind something else is not ours to fold."""
        body = f"w2 = Relu(w) c = Conv(x, w2) a = Relu(c) y = {self.norm}"
        assert_rests(self.rewrite, parse(self.signature, body, **self.weights()))


class TestPoolHead:
    rewrite = staticmethod(pool_head.PASS)
    flat = "(float[2,4,3,5] x) => (float[2,4] y)"

    @pytest.mark.parametrize("axes", [[2, 3], [-2, -1], [-1, 2], [3, 2]])
    def test_mean_without_kept_axes(self, axes):
        """ReduceMean over height and width, however its axes are written."""
        model = parse(self.flat, "y = ReduceMean<keepdims=0>(x, axes)", axes=np.int64(axes))
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        assert ops(model) == ["GlobalAveragePool", "Flatten"]

    def test_mean_of_opset_13(self):
        """Before opset 18 the axes are an attribute."""
        model = parse(self.flat, "y = ReduceMean<axes=[2, 3], keepdims=0>(x)", opset=13)
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        assert ops(model) == ["GlobalAveragePool", "Flatten"]

    @pytest.mark.parametrize(
        ("flatten", "weights"),
        [
            ("Reshape(p, shape)", {"shape": np.int64([2, 4])}),
            ("Reshape(p, shape)", {"shape": np.int64([-1, 4])}),
            ("Squeeze(p, axes2)", {"axes2": np.int64([2, 3])}),
            ("Flatten(p)", {}),
        ],
    )
    def test_mean_with_kept_axes(self, flatten, weights):
        """What flattens the kept axes becomes Flatten."""
        body = f"p = ReduceMean<keepdims=1>(x, axes) y = {flatten}"
        model = parse(self.flat, body, axes=np.int64([2, 3]), **weights)
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        assert ops(model) == ["GlobalAveragePool", "Flatten"]

    def test_batch_size_in_a_reshape_is_freed(self):
        """A Reshape to [2, 4] takes batch 2 only; afterwards any batch runs."""
        body = "p = GlobalAveragePool(x) y = Reshape(p, shape)"
        model = parse(self.flat, body, shape=np.int64([2, 4]))
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        images = normal(7, 4, 3, 5)
        assert np.allclose(answer(model, images)[0], images.mean(axis=(2, 3)), atol=1e-6)

    def test_map_of_one_pixel(self):
        """Where the last map is 1 x 1 there is no mean left, only a Squeeze."""
        signature = "(float[2,4,1,1] x) => (float[2,4] y)"
        model = parse(signature, "y = Squeeze(x, axes)", axes=np.int64([2, 3]))
        assert_fires(self.rewrite, model, normal(2, 4, 1, 1))
        assert ops(model) == ["Flatten"]

    def test_kept_axes_alone(self):
        """A mean that keeps its axes and is not flattened is the pool alone."""
        signature = "(float[2,4,3,5] x) => (float[2,4,1,1] y)"
        model = parse(signature, "y = ReduceMean(x, axes)", axes=np.int64([2, 3]))
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        assert ops(model) == ["GlobalAveragePool"]

    @pytest.mark.parametrize(
        ("signature", "body", "axes"),
        [
            ("(float[2,4,3,5] x) => (float[2,5] y)", "ReduceMean<keepdims=0>(x, axes)", [1, 2]),
            ("(float[2,4,3,5] x) => (float[2,4,3] y)", "ReduceMean<keepdims=0>(x, axes)", [3]),
            ("(float[2,4,3,5,6] x) => (float[2,4,6] y)", "ReduceMean<keepdims=0>(x, axes)", [2, 3]),
        ],
    )
    def test_stays_on_other_axes_and_ranks(self, signature, body, axes):
        """A mean over channels, over one axis or of a volume is something else."""
        assert_rests(self.rewrite, parse(signature, f"y = {body}", axes=np.int64(axes)))

    def test_reshape_of_larger_maps(self):
        """[2, 4, 3, 5] to [2, 60], as VGG does, is a Flatten too."""
        model = parse(
            "(float[2,4,3,5] x) => (float[2,60] y)", "y = Reshape(x, s)", s=np.int64([2, 60])
        )
        assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
        assert ops(model) == ["Flatten"]

    @pytest.mark.parametrize(
        ("window", "is_whole"),
        [
            ("kernel_shape=[3,5]", True),
            ("kernel_shape=[3,5], count_include_pad=1", True),
            ("kernel_shape=[4,6], pads=[0,0,1,1]", True),
            ("kernel_shape=[4,6], pads=[1,1,0,0]", True),
            ("kernel_shape=[4,6], pads=[0,0,1,1], count_include_pad=1", False),
            ("kernel_shape=[2,4], strides=[2,2]", False),
            ("kernel_shape=[2,5], strides=[2,1]", False),
            ("kernel_shape=[3,3]", False),
        ],
    )
    def test_average_over_the_map(self, window, is_whole):
        """One window with every pixel is the global pool, unless padding counts in it."""
        body = f"y = AveragePool<{window}>(x)"
        model = parse("(float[2,4,3,5] x) => (float[2,4,h,w] y)", body)
        if is_whole:
            assert_fires(self.rewrite, model, normal(2, 4, 3, 5))
            assert ops(model) == ["GlobalAveragePool"]
        else:
            assert_rests(self.rewrite, model)

    def test_stays_on_a_reshape_that_mixes_images(self):
        """[2, 4, 1, 1] to [4, 2] is no flattening."""
        signature = "(float[2,4,3,5] x) => (float[4,2] y)"
        body = "p = GlobalAveragePool(x) y = Reshape(p, shape)"
        assert_rests(self.rewrite, parse(signature, body, shape=np.int64([4, 2])))


class TestRemoveUnused:
    rewrite = staticmethod(remove_unused.PASS)

    def test_nodes_weights_and_shapes(self):
        """What no output depends on goes, chains included."""
        body = "a = Add(x, w) b = Relu(a) y = Sigmoid(a) c = Add(b, v)"
        model = parse("(float[2] x) => (float[2] y)", body, w=normal(2), v=normal(2))
        assert_fires(self.rewrite, model, normal(2))
        assert ops(model) == ["Add", "Sigmoid"]
        assert [tensor.name for tensor in model.graph.initializer] == ["w"]
        assert {value.name for value in model.graph.value_info} == {"a"}

    def test_weights_are_no_inputs(self):
        """A weight listed as an input is taken off the inputs."""
        model = parse("(float[2] x, float[2] w) => (float[2] y)", "y = Add(x, w)", w=normal(2))
        assert_fires(self.rewrite, model, normal(2))
        assert [value.name for value in model.graph.input] == ["x"]

    def test_stays_where_all_is_used(self):
        """Nothing to do is said."""
        model = parse("(float[2] x) => (float[2] y)", "a = Add(x, w) y = Relu(a)", w=normal(2))
        assert_rests(self.rewrite, model)


class TestNameTensors:
    rewrite = staticmethod(name_tensors.PASS)

    def model(self):
        body = (
            "t1 = Conv(x, stem_w, t2) t3 = Relu(t1) t4 = Relu(t1) t5 = Concat<axis=1>(t3, t4) "
            "t6 = GlobalAveragePool(t5) t7 = Flatten(t6) out = Gemm<transB=1>(t7, head_w, head_b)"
        )
        model = parse(
            "(float[1,3,4,4] x) => (float[1,5] out)",
            body,
            stem_w=normal(2, 3, 1, 1),
            t2=normal(2),
            head_w=normal(5, 4),
            head_b=normal(5),
        )
        renamed = {"stem_w": "features.0.conv.weight", "head_w": "last_linear.weight"}
        for node in model.graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        for tensor in model.graph.initializer:
            tensor.name = renamed.get(tensor.name, tensor.name)
        model.graph.node[4].name = "/GlobalAveragePool"
        return model

    def test_names_come_from_the_weights(self):
        """Each node and tensor has its module's name, the signature is ours, biases have theirs."""
        model = self.model()
        assert_fires(self.rewrite, model, normal(1, 3, 4, 4))
        assert [node.name for node in model.graph.node] == [
            "features.0/conv",
            "features.0/relu",
            "features.0/relu_1",
            "features.0/concat",
            "global_average_pool",
            "flatten",
            "last_linear/gemm",
        ]
        written = [node.output[0] for node in model.graph.node]
        assert written == [*(node.name for node in model.graph.node[:-1]), "logits"]
        assert model.graph.input[0].name == "input"
        assert model.graph.output[0].name == "logits"
        assert {tensor.name for tensor in model.graph.initializer} == {
            "features.0.conv.weight",
            "features.0.conv.bias",
            "last_linear.weight",
            "last_linear.bias",
        }

    def test_shapes_follow_their_tensors(self):
        """Recorded shapes carry the new names."""
        model = self.model()
        self.rewrite(model)
        written = {name for node in model.graph.node[:-1] for name in node.output}
        assert {value.name for value in model.graph.value_info} == written


def test_a_pass_that_breaks_the_order_is_stopped():
    """A pass whose result reads what nobody wrote fails at its own border."""

    def spoil(model):
        model.graph.node[1].input[0] = "nowhere"
        return True

    model = parse("(float[2] x) => (float[2] y)", "a = Relu(x) y = Sigmoid(a)")
    with pytest.raises(AssertionError, match=r"spoil: node .* reads 'nowhere'"):
        Pass(name="spoil", call=spoil)(model)


def sequence(failing):
    """Passes ``first``, ``second`` and ``third``, of which the last calls ``failing``."""
    calls = {"first": lambda _: False, "second": lambda _: True, "third": failing}
    return tuple(Pass(name=name, call=call) for name, call in calls.items())


def small():
    return parse("(float[2] x) => (float[2] y)", "y = Relu(x)")


@pytest.mark.parametrize("kind", [InputError, CompileFailed])
def test_a_pass_that_refuses_a_graph_is_named(kind):
    """The error keeps class, exit code, message and hint; it tells the pass and those before."""

    def refuse(_):
        raise kind("node 'odd' is too odd", hint="export it again")

    with pytest.raises(kind) as caught:
        run_passes(sequence(refuse), small())
    error = caught.value
    assert (type(error), error.exit_code, error.hint) == (kind, kind.exit_code, "export it again")
    assert str(error).startswith("node 'odd' is too odd")
    assert re.search(r"pass third\b.*\bfirst, second\b", str(error))
    assert str(error.__cause__) == "node 'odd' is too odd"


def test_a_pass_that_breaks_is_named():
    """A bug stays one: no error of ours; the traceback shows the line of the pass."""

    def stumble(_):
        return {}["absent"]

    with pytest.raises(RuntimeError, match=r"pass third\b.*\bfirst, second\b.*'absent'") as caught:
        run_passes(sequence(stumble), small())
    assert not isinstance(caught.value, EdgeInceptionError)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "in stumble" in "".join(traceback.format_exception(caught.value))


def test_a_broken_check_names_the_passes_before():
    """An assertion between two passes is a bug too."""
    spoil = Pass(name="spoil", call=lambda model: bool(model.graph.node[0].input.append("no")))
    with pytest.raises(RuntimeError, match=r"pass spoil\b.*\bfirst, second, third\b.*reads 'no'"):
        run_passes((*sequence(lambda _: False), spoil), small())


def test_passes_that_all_work_say_whether_one_changed_something():
    """Every pass runs, also behind one that changed something."""
    seen = []
    assert run_passes(sequence(lambda _: bool(seen.append("third"))), small()) is True
    assert run_passes(sequence(lambda _: False)[::2], small()) is False
    assert seen == ["third"]


def odd(num_changes):
    """A pass that changes something so many times and then refuses the graph."""
    left = iter(range(num_changes))

    def call(_):
        if next(left, None) is None:
            raise InputError("too odd")
        return True

    return Pass(name="odd", call=call)


def test_simplify_names_the_pass_and_its_round(monkeypatch):
    """Its passes run until nothing changes, so one that fails may have worked before."""
    before = ", ".join(each.name for each in simplify.PASSES)
    monkeypatch.setattr(simplify, "PASSES", (*simplify.PASSES, odd(1)))
    with pytest.raises(InputError, match=rf"too odd .*pass odd, round 2\b.*{before}\b"):
        simplify.simplify_model(small())


def test_dla_names_the_pass(monkeypatch):
    """Its passes run once."""
    before = ", ".join(each.name for each in dla.PASSES)
    monkeypatch.setattr(dla, "PASSES", (*dla.PASSES, odd(0)))
    with pytest.raises(InputError, match=rf"too odd .*pass odd\b.*{before}\b"):
        dla.rewrite(small())
