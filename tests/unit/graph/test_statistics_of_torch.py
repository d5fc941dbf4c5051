"""statistics: what PyTorch's own forward hooks count on the network that was exported."""

from __future__ import annotations

import math
import warnings
import weakref

import onnx
import pytest
import torch
from torch import nn

from edge_inception import registry
from edge_inception.graph.statistics import Statistics, statistics


class Call(nn.Module):
    """A function as a module, so that hooks see it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


class Net(nn.Module):
    """A strided stem, two branches, a residual of a grouped convolution, deconvolution, head.

    The norm stands behind a Relu, where no exporter folds it. Every tensor is a module's output.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.norm = nn.BatchNorm2d(8)
        self.pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.left = nn.Conv2d(8, 6, (1, 5), padding=(0, 2))
        self.right = nn.Conv2d(8, 10, 1, bias=False)
        self.join = Call(lambda a, b: torch.cat([a, b], dim=1))
        self.grouped = nn.Conv2d(16, 16, 3, padding=1, groups=4)
        self.add = Call(torch.add)
        self.wider = nn.ConvTranspose2d(16, 4, 2, stride=2)
        self.average = nn.AvgPool2d(4)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(4 * 4 * 4, 7)

    def forward(self, image):
        return self.run([image])

    def run(self, holder):
        """``holder`` gives its one image away, so that it dies after its last reader."""
        x = self.stem(holder.pop())
        x = self.relu(x)
        x = self.norm(x)
        left = self.left(x)
        x = self.pool(x)
        x = self.right(x)
        x = self.join(left, x)
        del left
        x = self.add(x, self.grouped(x))
        x = self.wider(x)
        x = self.average(x)
        x = self.flatten(x)
        return self.classifier(x)


class Counted:
    """Multiply-adds, all bytes and bytes alive at once of one forward pass, by hooks."""

    def __init__(self, model: Net, batch: int, side: int) -> None:
        self.macs = self.activation_bytes = self.peak_bytes = 0
        self.alive: list[weakref.ref] = []
        hooks = [
            module.register_forward_hook(self.saw) for module in model.modules() if module != model
        ]
        with torch.inference_mode():
            model.run([self.kept(torch.zeros(batch, 3, side, side))])
        for hook in hooks:
            hook.remove()

    def kept(self, tensor: torch.Tensor) -> torch.Tensor:
        self.activation_bytes += tensor.numel() * tensor.element_size()
        self.alive.append(weakref.ref(tensor))
        return tensor

    def saw(self, module, tensors, output) -> None:
        self.kept(output)
        living = [tensor for tensor in (held() for held in self.alive) if tensor is not None]
        now = sum(tensor.numel() * tensor.element_size() for tensor in living)
        self.peak_bytes = max(self.peak_bytes, now)
        if isinstance(module, nn.ConvTranspose2d):
            self.macs += tensors[0].numel() * module.weight[0].numel()
        elif isinstance(module, nn.Conv2d | nn.Linear):
            self.macs += output.numel() * module.weight[0].numel()


def exported(model: nn.Module, *shape: int) -> onnx.ModelProto:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns about torch
        program = torch.onnx.export(
            model.eval(), (torch.zeros(shape),), dynamo=True, opset_version=18, verbose=False
        )
    return program.model_proto


def num_parameters(found: Statistics) -> int:
    return sum(kind.count for kind in found.parameters)


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    for value in made.norm.state_dict().values():
        if value.is_floating_point():  # equal ones are exported as one
            value.uniform_(0.5, 1.5)
    return made


@pytest.mark.parametrize("batch", [1, 3])
def test_a_tiny_network_costs_what_hooks_count(net, batch):
    """Multiply-adds, the sum of activations and the most alive at once are PyTorch's, exactly."""
    found = statistics(exported(net, batch, 3, 16, 16))
    hooked = Counted(net, batch, 16)
    assert found.macs == hooked.macs
    assert found.activation_bytes == hooked.activation_bytes
    assert found.peak_bytes == hooked.peak_bytes
    stored = [value for value in net.state_dict().values() if value.is_floating_point()]
    assert num_parameters(found) == sum(value.numel() for value in stored)
    assert found.unknown_shapes == ()
    assert found.unknown_macs == {}


@pytest.mark.slow
def test_inception_v4_is_that_of_the_paper():
    """42,679,816 parameters, 12.254 G, 15.09 M outputs of 149 Conv and 1 Gemm.

    Source: docs/models.md, "Sizes". There a norm has two parameters per channel; a Conv that took
    its norm in has one, its bias.
    """
    model = registry.model("inception_v4").build(num_classes=1000)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        nn.init.uniform_(norm.bias)  # the exporter leaves out a bias of zeros
    found = statistics(exported(model, 1, 3, 299, 299))
    assert "BatchNormalization" not in found.ops
    assert num_parameters(found) == 42_679_816 - sum(norm.num_features for norm in norms)
    assert round(found.macs / 1e9, 3) == 12.254
    assert (found.ops["Conv"], found.ops["Gemm"]) == (149, 1)
    outputs = [math.prod(layer.sizes) for layer in found.layers if layer.op in {"Conv", "Gemm"}]
    assert round(sum(outputs) / 1e6, 2) == 15.09
