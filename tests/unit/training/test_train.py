"""Training: learns, resumes to the bit, stores what it says, refuses what cannot be trained."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from edge_inception import registry
from edge_inception.checkpoints.load import load_model
from edge_inception.data import images
from edge_inception.data.imageset import ImageSet, open_set
from edge_inception.errors import InputError
from edge_inception.spec import Preprocess, no_progress
from edge_inception.training import run as training_run
from edge_inception.training import train as subject
from edge_inception.training.augment import load_augmented

SQUARE = Preprocess(input_size=(32, 32))
COLOURS = {"blue": (40, 60, 200), "red": (200, 60, 40)}


def paint(folder, per_class, seed):
    """Noisy photos of two colours, in class folders, of three shapes."""
    rng = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for index in range(per_class):
            size = ((36, 30), (30, 36), (34, 34))[index % 3]
            noise = rng.normal(0, 20, (*size, 3)) + colour
            image = Image.fromarray(np.clip(noise, 0, 255).astype(np.uint8))
            image.save(folder / name / f"{index}.png")
    return open_set(folder)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """18 images to train on and 8 to watch."""
    folder = tmp_path_factory.mktemp("toy")
    return paint(folder / "train", 9, seed=1), paint(folder / "monitor", 4, seed=2)


@pytest.fixture(scope="module")
def options(tiny_model):
    return subject.TrainOptions(
        model=tiny_model.name,
        num_classes=2,
        preprocess=SQUARE,
        epochs=4,
        batch=6,
        start_size=24,
        learning_rate=5e-3,
        warmup_epochs=1,
        ema_decay=0.5,
        monitor_every=2,
        threads=1,
    )


@pytest.fixture(scope="module")
def finished(toy, options, tmp_path_factory):
    """An undisturbed run: its folder and the steps it reported."""
    out = tmp_path_factory.mktemp("run")
    steps = []
    subject.train(*toy, options, out, progress=lambda *step: steps.append(step))
    return out, steps


def change(options, **changes):
    return dataclasses.replace(options, **changes)


def metrics_of(out):
    return json.loads((out / "metrics.json").read_text(encoding="utf-8"))


def state_of(out):
    return torch.load(out / "state.pt", weights_only=True)


def weighted(images, weights):
    """The set with other weights of its images."""
    pairs = zip(images.items, weights, strict=True)
    items = tuple(dataclasses.replace(item, weight=float(weight)) for item, weight in pairs)
    return dataclasses.replace(images, items=items)


def built(options):
    return registry.build(registry.model(options.model), options.num_classes, options.model_options)


def first_answers(toy, options, out):
    """What the model of a run that took no step yet answers to its first batch, of all images.

    float32, in training mode, and the labels; ``out`` holds a run without learning rate, whose
    weights are those that a run of this seed starts with.
    """
    subject.train(*toy, change(options, learning_rate=0.0), out)
    model = built(options)
    model.load_state_dict(state_of(out)["model"])
    draw = {"options": options, "size": options.start_size, "epoch": 0}
    pixels = [load_augmented(item, index=i, **draw) for i, item in enumerate(toy[0].items)]
    with torch.no_grad():
        answers = model.train()(torch.from_numpy(np.stack(pixels)))
    return answers, torch.tensor([item.label for item in toy[0].items])


def smoothed(logits, labels, smoothing):
    """Cross entropy of every image by its definition, labels smoothed over two classes."""
    shares = torch.nn.functional.one_hot(labels, 2) * (1 - smoothing) + smoothing / 2
    return -(shares * logits.log_softmax(dim=1)).sum(dim=1)


class TestRun:
    def test_learns_colours(self, finished):
        """On images told apart by colour the loss falls and the monitored accuracy is 1."""
        found = metrics_of(finished[0])
        losses = [epoch["loss"] for epoch in found["history"]]
        assert losses[-1] < 0.8 * losses[0]
        assert found["metrics"] == {"accuracy": 1.0, "balanced_accuracy": 1.0, "auroc": 1.0}

    def test_reports_progress(self, finished):
        """Progress counts every step once: 18 images in batches of 6 for 4 epochs."""
        assert finished[1] == [(step, 12) for step in range(1, 13)]

    def test_metrics_file(self, finished, toy, options):
        """The metrics record options, seed, classes, both sets and the tools."""
        found = metrics_of(finished[0])
        assert found["options"]["seed"] == options.seed
        assert found["options"]["preprocess"]["input_size"] == [32, 32]
        assert found["classes"] == ["blue", "red"]
        assert found["train"] == {"set": "train", "images": 18}
        assert found["train_sha256"] == toy[0].sha256
        assert found["tools"]["torch"] == torch.__version__
        assert [epoch["size"] for epoch in found["history"]] == [24, 24, 24, 32]
        assert ["accuracy" in epoch for epoch in found["history"]] == [False, True, False, True]

    def test_metrics_are_those_of_the_checkpoint(self, finished, toy):
        """The checkpoint, loaded strictly by the product, gives the accuracy that is claimed."""
        model = load_model("tiny_inception", finished[0] / "checkpoint.safetensors")
        right = 0
        for item in toy[1].items:
            pixels = torch.from_numpy(images.load_image(item.path, SQUARE))[None]
            right += int(model(pixels).argmax()) == item.label
        assert right / 8 == metrics_of(finished[0])["metrics"]["accuracy"]

    def test_stored_types(self, finished):
        """Weights are fp16, batch-norm statistics fp32, counters integers; classes are written."""
        with safe_open(finished[0] / "checkpoint.safetensors", "pt") as stored:
            types = {key: stored.get_tensor(key).dtype for key in stored.keys()}  # noqa: SIM118
            assert json.loads(stored.metadata()["classes"]) == ["blue", "red"]
        statistics = {k for k in types if k.endswith(("running_mean", "running_var"))}
        counters = {k for k in types if k.endswith("num_batches_tracked")}
        assert {types[k] for k in statistics} == {torch.float32}
        assert {types[k] for k in counters} == {torch.int64}
        assert {types[k] for k in types.keys() - statistics - counters} == {torch.float16}

    def test_small_variances_survive(self, finished, toy, options, tmp_path):
        """A variance of 1e-9, which fp16 would store as 0, is stored as it is."""
        key, tiny = "features.0.bn.running_var", torch.tensor(1e-9)
        assert tiny.half().item() == 0
        state = state_of(finished[0])
        state["average"][key][3] = tiny
        torch.save(state, tmp_path / "state.pt")
        subject.train(*toy, options, tmp_path)
        with safe_open(tmp_path / "checkpoint.safetensors", "pt") as stored:
            assert stored.get_tensor(key)[3] == tiny


class TestResume:
    @pytest.mark.parametrize("stop_at", [1, 5, 7, 12])
    def test_interrupted_run_ends_the_same(self, toy, options, finished, tmp_path, stop_at):
        """Stopped at any step and started again, a run ends with the very same file."""

        def stop(done, _total):
            if done == stop_at:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            subject.train(*toy, options, tmp_path, progress=stop)
        torch.rand(7)  # what happens between the two must not matter
        subject.train(*toy, options, tmp_path)
        names = ("checkpoint.safetensors", "metrics.json")
        first, second = ((folder / names[0]).read_bytes() for folder in (finished[0], tmp_path))
        assert first == second
        mine, theirs = metrics_of(tmp_path), metrics_of(finished[0])
        assert mine["history"] == theirs["history"]
        assert mine["metrics"] == theirs["metrics"]

    def test_finished_run_is_not_trained_again(self, toy, options, finished):
        """A run that is done takes no further step and leaves the same file."""
        before = (finished[0] / "checkpoint.safetensors").read_bytes()
        steps = []
        subject.train(*toy, options, finished[0], progress=lambda *step: steps.append(step))
        assert steps == []
        assert (finished[0] / "checkpoint.safetensors").read_bytes() == before

    def test_seed_matters(self, toy, options, finished, tmp_path):
        """Another seed gives other weights."""
        subject.train(*toy, change(options, seed=1), tmp_path)
        first, second = (
            (folder / "checkpoint.safetensors").read_bytes() for folder in (finished[0], tmp_path)
        )
        assert first != second

    def test_other_options_or_images(self, toy, options, finished):
        """A folder that holds another run is refused, whether options or images differ."""
        fewer = toy[0].subset(12)
        for train_set, changed in ((toy[0], change(options, learning_rate=1e-3)), (fewer, options)):
            with pytest.raises(InputError, match="other options or images") as caught:
                subject.train(train_set, toy[1], changed, finished[0])
            assert "--out" in caught.value.hint

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
    def test_spoilt_state(self, toy, options, tmp_path, content):
        """A state file that is none is refused and not trained over."""
        (tmp_path / "state.pt").write_bytes(content)
        with pytest.raises(InputError, match="not the state of a training run"):
            subject.train(*toy, options, tmp_path)

    def test_disk_full(self, toy, options, tmp_path):
        """When the state no longer fits, the error says so and the old state stays."""
        once = change(options, epochs=1)
        subject.train(*toy, once, tmp_path)
        before = (tmp_path / "state.pt").read_bytes()
        (tmp_path / "checkpoint.safetensors").unlink()
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            with pytest.raises(InputError, match="disk full"):
                subject.train(*toy, once, tmp_path)
            with pytest.raises(InputError, match="disk full"):
                subject.train(*toy, once, tmp_path / "fresh")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert (tmp_path / "state.pt").read_bytes() == before
        assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh", "metrics.json", "state.pt"]
        assert list((tmp_path / "fresh").iterdir()) == []


class TestStep:
    def test_fewer_images_than_a_batch(self, toy, options, tmp_path):
        """A set smaller than one batch is one step of all its images, not no step."""
        steps = []
        few = change(options, batch=64, epochs=2)
        subject.train(*toy, few, tmp_path, progress=lambda *step: steps.append(step))
        assert steps == [(1, 2), (2, 2)]

    def test_average_after_one_step(self, toy, options, tmp_path):
        """After the first step the average is a tenth of the start and nine tenths of the step."""
        once = change(options, epochs=1, batch=18)
        subject.train(*toy, change(once, learning_rate=0.0), tmp_path / "still")
        subject.train(*toy, once, tmp_path / "moved")
        start, state = state_of(tmp_path / "still")["model"], state_of(tmp_path / "moved")
        for key in start:  # statistics move without a learning rate; they start as torch's do
            if key.endswith(("running_mean", "running_var")):
                start[key].fill_(float(key.endswith("running_var")))
        assert not torch.equal(start["last_linear.weight"], state["model"]["last_linear.weight"])
        for key, value in state["model"].items():
            wanted = value
            if value.is_floating_point():
                wanted = start[key].double() * 0.1 + value.double() * 0.9
            assert torch.allclose(state["average"][key].to(wanted.dtype), wanted, atol=1e-6), key

    def test_weights_scale_the_loss(self, toy, options, tmp_path):
        """An image of weight 0 has no say: the loss is the mean over the others."""
        once = change(
            options, epochs=1, batch=18, model_options={"dropout": 0.0}, label_smoothing=0.4
        )
        answers, labels = first_answers(toy, once, tmp_path / "still")
        per_image = smoothed(answers, labels, 0.4)
        dearest = per_image.argsort(descending=True)
        weights = torch.zeros(18)
        weights[dearest[0]], weights[dearest[2]] = 1.0, 0.5
        wanted = (per_image[dearest[0]] + 0.5 * per_image[dearest[2]]) / 1.5
        assert wanted > 1.1 * per_image.mean()
        subject.train(weighted(toy[0], weights), toy[1], once, tmp_path / "out")
        for out, loss in (("still", per_image.mean()), ("out", wanted)):
            found = metrics_of(tmp_path / out)["history"][0]["loss"]
            assert found == pytest.approx(loss.item(), rel=0.03)  # bfloat16 keeps 8 bits

    def test_batch_without_weight(self, toy, options, tmp_path):
        """A batch in which nothing counts has loss 0 and leaves finite weights."""
        once = change(options, epochs=1, batch=18)
        subject.train(weighted(toy[0], [0] * 18), toy[1], once, tmp_path)
        assert metrics_of(tmp_path)["history"][0]["loss"] == 0
        assert all(torch.isfinite(value).all() for value in state_of(tmp_path)["model"].values())

    def test_loss_that_is_not_finite(self, toy, options, tmp_path):
        """A diverged run stops with the step, before the weights are spoilt."""
        model, average = built(options), built(options)
        average.load_state_dict(model.state_dict())
        done = itertools.count()

        def losses(_, answers, labels):
            loss = torch.nn.functional.cross_entropy(answers, labels, reduction="none")
            return loss * math.nan if next(done) == 3 else loss

        subject_ = training_run.TrainingModel(model=model, average=average, losses=losses)
        run = training_run.Run(subject_, *toy, options, tmp_path)
        run.train_epoch(no_progress)  # of three steps
        before = [p.clone() for p in model.parameters()]
        with pytest.raises(InputError, match="loss is nan at step 3") as caught:
            run.train_epoch(no_progress)
        assert "learning-rate" in caught.value.hint
        pairs = zip(before, model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_decay_spares_biases_and_norms(self, toy, options, tmp_path):
        """Weight decay is on kernels and matrices only: where no image counts, these alone shrink.

        The second of two steps starts with ones.
        """
        changes = {"warmup_epochs": 0, "learning_rate": 0.1, "weight_decay": 0.5}
        decaying = change(options, epochs=2, batch=18, **changes)
        sets = weighted(toy[0], [0] * 18), toy[1]

        def stop(done, _total):
            if done == 2:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            subject.train(*sets, decaying, tmp_path, progress=stop)
        names = [name for name, _ in built(options).named_parameters()]
        state = state_of(tmp_path)
        for name in names:
            state["model"][name].fill_(1.0)
        torch.save(state, tmp_path / "state.pt")
        subject.train(*sets, decaying, tmp_path)
        found = state_of(tmp_path)["model"]
        shrunk = {name for name in names if not (found[name] == 1).all()}
        assert {name.split(".")[-2] for name in shrunk} == {"conv", "last_linear"}
        assert all(name.endswith((".bias", "bn.weight")) for name in set(names) - shrunk)
        factor = 1 - 0.1 * 0.5 * training_run.learning_rate_factor(1, 1, decaying)
        assert all(found[name].numpy() == pytest.approx(factor, rel=1e-6) for name in shrunk)


class TestPlan:
    def test_schedule(self, options):
        """Linear to 1 over the warm-up, then half a cosine that ends at 0."""
        plan = change(options, epochs=10, warmup_epochs=2)
        at = [training_run.learning_rate_factor(done, 5, plan) for done in range(50)]
        assert at[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
        assert at[10] == 1.0
        assert at[30] == pytest.approx(0.5)  # half of the 40 steps after the warm-up
        assert at[20] == pytest.approx((1 + math.sqrt(0.5)) / 2)
        assert all(a > b for a, b in itertools.pairwise(at[10:]))
        assert training_run.learning_rate_factor(50, 5, plan) == pytest.approx(0)

    def test_schedule_of_warm_up_only(self, options):
        """A run no longer than its warm-up is all warm-up; none at all starts at 1."""
        short = change(options, epochs=1, warmup_epochs=3)
        assert training_run.learning_rate_factor(4, 5, short) == 5 / 15
        assert training_run.learning_rate_factor(0, 5, change(options, warmup_epochs=0)) == 1.0

    def test_image_size(self, options):
        """160 grows to 299 over 70 % of 60 epochs in steps of 16, then stays."""
        plan = change(
            options, epochs=60, start_size=160, preprocess=Preprocess(input_size=(299, 299))
        )
        sizes = [training_run.image_size(epoch, plan) for epoch in range(60)]
        assert sizes[0] == 160
        assert sizes[21] == 224  # half-way: 229.5, rounded down to a multiple of 16
        assert sizes[41] == 288
        assert sizes[42:] == [299] * 18
        assert sizes == sorted(sizes)
        assert all(size % 16 == 0 for size in sizes[:42])

    @pytest.mark.parametrize("start", [299, 300, 400])
    def test_image_size_that_does_not_grow(self, options, start):
        """A start at or above the final size is the final size."""
        plan = change(options, start_size=start, preprocess=Preprocess(input_size=(299, 299)))
        assert {training_run.image_size(epoch, plan) for epoch in range(4)} == {299}

    def test_image_size_starts_at_the_start(self, options):
        """A start that is no multiple of 16 is not rounded below itself."""
        plan = change(options, start_size=100, preprocess=Preprocess(input_size=(299, 299)))
        assert training_run.image_size(0, plan) == 100


class TestRefused:
    def refused(self, toy, options, out):
        with pytest.raises(InputError) as caught:
            subject.train(*toy, options, out)
        assert caught.value.hint
        assert list(out.iterdir()) == []
        return str(caught.value)

    def test_unlabelled(self, toy, options, tmp_path):
        """An image without a label cannot be trained on."""
        items = (dataclasses.replace(toy[0].items[0], label=None), *toy[0].items[1:])
        spoilt = dataclasses.replace(toy[0], items=items)
        assert "without a label" in self.refused((spoilt, toy[1]), options, tmp_path)

    def test_class_count(self, toy, options, tmp_path):
        """Two classes do not fit a head of three."""
        message = self.refused(toy, change(options, num_classes=3), tmp_path)
        assert "has 2 classes, the model 3" in message

    def test_class_names(self, toy, options, tmp_path):
        """Sets whose classes differ by name or order do not fit each other."""
        for classes in (("red", "blue"), ("blue", "green")):
            other = dataclasses.replace(toy[1], classes=classes)
            message = self.refused((toy[0], other), options, tmp_path)
            assert f"monitor has {', '.join(classes)}" in message

    def test_monitored_images_that_are_trained_on(self, toy, options, tmp_path):
        """Metrics on trained images are refused."""
        assert "also trained on" in self.refused((toy[0], toy[0]), options, tmp_path)

    def test_damaged_image(self, toy, options, tmp_path):
        """A damaged image is named before the first step."""
        (tmp_path / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        bad = dataclasses.replace(toy[0].items[0], path=tmp_path / "bad.png", sha256="0")
        spoilt = ImageSet(name="spoilt", items=(*toy[0].items, bad), classes=toy[0].classes)
        out = tmp_path / "out"
        out.mkdir()
        assert "bad.png" in self.refused((spoilt, toy[1]), options, out)

    @pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is present")
    def test_no_cuda(self, toy, options, tmp_path):
        """CUDA without a device is refused and not run on the CPU."""
        assert "no CUDA device" in self.refused(toy, change(options, device="cuda"), tmp_path)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"device": "tpu"}, "no device named 'tpu'"),
            ({"model": "inception_v44"}, "no model named"),
            ({"model_options": {"widht": 0.5}}, "no option of tiny_inception named 'widht'"),
            ({"preprocess": Preprocess(input_size=(32, 40))}, "32 x 40"),
            ({"epochs": 0}, "epochs is 0"),
            ({"batch": 0}, "batch is 0"),
            ({"seed": -1}, "seed is -1"),
            ({"monitor_every": 0}, "monitor_every is 0"),
            ({"start_size": 4}, "4 x 4 pixels"),
        ],
    )
    def test_options(self, toy, options, tmp_path, changes, message):
        """An option that cannot be is refused by name before anything is written."""
        assert message in self.refused(toy, change(options, **changes), tmp_path)


def test_one_image_at_one_position(toy, tiny_model, tmp_path):
    """Batch norm has nothing to compare in one image of one position; that is refused by name."""
    how = Preprocess(input_size=(8, 8))
    options = subject.TrainOptions(model=tiny_model.name, num_classes=2, preprocess=how, batch=1)
    with pytest.raises(InputError, match="1 images of 8 x 8 pixels"):
        subject.train(*toy, options, tmp_path)


@pytest.mark.slow
def test_inception_v4_at_its_smallest(toy, tmp_path):
    """Inception-v4 itself trains for an epoch at 8 channels per layer and 75 pixels."""
    options = subject.TrainOptions(
        model="inception_v4",
        num_classes=2,
        preprocess=Preprocess(input_size=(75, 75)),
        model_options={"width": 1 / 32},
        epochs=1,
        batch=9,
        start_size=75,
        threads=1,
    )
    path = subject.train(*toy, options, tmp_path)
    model = load_model("inception_v4", path, width=1 / 32)
    assert torch.isfinite(model(torch.zeros(1, 3, 75, 75))).all()


@pytest.mark.slow
def test_auxiliary_heads_are_trained_with_their_weights(toy, tmp_path, monkeypatch):
    """The loss is that of the logits plus 0.3 of each of GoogLeNet's two auxiliary heads."""
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_, **__: x)
    options = subject.TrainOptions(
        model="googlenet",
        num_classes=2,
        preprocess=Preprocess(input_size=(64, 64)),
        model_options={"width": 1 / 32, "aux": True},
        epochs=1,
        batch=18,
        start_size=64,
        threads=1,
    )
    answers, labels = first_answers(toy, options, tmp_path / "still")
    logits, first, second = (smoothed(each, labels, 0.05).mean() for each in answers)
    found = metrics_of(tmp_path / "still")["history"][0]["loss"]
    assert found == pytest.approx((logits + 0.3 * (first + second)).item(), rel=0.03)
    subject.train(*toy, options, tmp_path / "moved")
    before, after = (state_of(tmp_path / out)["model"] for out in ("still", "moved"))
    assert not torch.equal(before["aux1.fc2.weight"], after["aux1.fc2.weight"])


def test_an_embedding_is_not_trained_as_a_classifier(toy, tmp_path):
    """FaceNet's tail has no classes to learn; the error names the tails that have."""
    options = subject.TrainOptions(
        model="inception_resnet_v1",
        num_classes=2,
        preprocess=Preprocess(input_size=(96, 96)),
        model_options={"tail": "facenet", "width": 1 / 32},
        start_size=96,
    )
    with pytest.raises(InputError, match=r"^inception_resnet_v1 with .* puts out an embedding$"):
        subject.train(*toy, options, tmp_path)
