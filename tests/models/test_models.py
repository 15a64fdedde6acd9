"""Encoders and fusions."""

from copy import deepcopy
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import nn

from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.encoders.base import OnePixelConv
from mmpareto.models.encoders.image_nets import ResNet18
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.concat import Concat
from mmpareto.models.fusions.sum import Sum
from mmpareto.run import checkpoint, devices, options, setup
from mmpareto.system.errors import UserError

IMAGE = Modality("image", (3, 32, 32))
GRAY = Modality("image", (1, 32, 32))
SPECTROGRAM = Modality("spectrogram", (1, 65, 47))
FRAMES = Modality("frames", (3, 3, 32, 32))
FLOW = Modality("flow", (5, 2, 32, 32))


# torchvision's; but for the first one, and our own video net, their tests are slow
NETS = ["resnet18", "mobilenet_v3_small", "resnet34", "resnet50", "resnet101", "mobilenet_v2"]
VIDEO = ["video_cnn", "mc3_18", "r3d_18", "r2plus1d_18"]
LARGE = [*NETS[1:], *VIDEO[1:]]


def names(*some):
    return [pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in some]


OF_TIME = [*VIDEO, "gru", "gru_wide"]


@pytest.mark.parametrize("name", names(*(name for name in ENCODERS if name not in OF_TIME)))
@pytest.mark.parametrize("modality", [IMAGE, GRAY, SPECTROGRAM, FRAMES])
def test_encoders(name, modality):
    encoder = ENCODERS[name](modality)
    features = encoder(torch.randn(2, *modality.shape))
    assert features.shape == (2, encoder.out_dim)
    assert len(list(encoder.stages)) > 1


@pytest.mark.parametrize("name", names(*VIDEO))
@pytest.mark.parametrize("modality", [FRAMES, FLOW])
def test_video_nets_see_the_order(name, modality):
    encoder = ENCODERS[name](modality).eval()
    clips = torch.randn(2, *modality.shape)
    features = encoder(clips)
    assert features.shape == (2, encoder.out_dim)
    assert not torch.allclose(features, encoder(clips.flip(1)), rtol=0.01)
    with pytest.raises(UserError, match=r" takes frames \(time.*\), not image of shape \(3, 32"):
        ENCODERS[name](IMAGE)


@pytest.mark.parametrize("name", ["resnet18", "cnn"])
def test_frames_are_averaged(name):
    encoder = ENCODERS[name](FRAMES).eval()
    clips = torch.randn(2, *FRAMES.shape)
    each = torch.stack([encoder(clips[:, t]) for t in range(3)])
    torch.testing.assert_close(encoder(clips), each.mean(0))


@pytest.mark.parametrize("name", ["resnet18", "cnn", "lenet", "lenet_bn"])
def test_encoders_refuse_what_is_no_picture(name):
    with pytest.raises(UserError, match=r"not array of shape \(7,\): choose another"):
        ENCODERS[name](Modality("array", (7,)))


@pytest.mark.parametrize("shape", [(7,), (5, 3)])
def test_arrays_have_an_encoder_of_their_own(shape):
    encoder = ENCODERS["mlp"](Modality("array", shape)).eval()
    assert encoder(torch.randn(4, *shape)).shape == (4, encoder.out_dim)


@pytest.mark.parametrize("fusion", ["mmtm", "centralnet", "concat"])
def test_video_nets_meet_others(fusion):
    """Also in the memory format of training, which changes nothing but rounding."""
    encoders = {"film": ENCODERS["video_cnn"](FRAMES), "photo": ENCODERS["cnn"](IMAGE)}
    model = FUSIONS[fusion](encoders, 5)
    inputs = {"film": torch.randn(4, *FRAMES.shape), "photo": torch.randn(4, *IMAGE.shape)}
    before = deepcopy(model)(inputs).joint
    placed = devices.place(model, torch.device("cpu"), "fp32")
    weight = placed.encoders["film"].stages[1][0].weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)
    assert before.shape == (4, 5)
    torch.testing.assert_close(placed(inputs).joint, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", names(*NETS, *VIDEO[1:]))
def test_nets_are_torchvisions(name):
    """The same weights give the same features, on small pictures (1x1 maps) and larger ones."""
    theirs = torchvision.models.get_model(name)
    setattr(theirs, "fc" if hasattr(theirs, "fc") else "classifier", nn.Identity())
    ours = ENCODERS[name](FRAMES if name in VIDEO else IMAGE)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    for size in (32, 96):
        pictures = torch.randn(4, 3, size, size)
        inputs = pictures
        if name in VIDEO:
            pictures = torch.randn(2, 3, 4, size, size)
            inputs = pictures.transpose(1, 2)
        torch.testing.assert_close(ours(inputs), theirs(pictures), rtol=1e-4, atol=1e-4)
    maps, widths = ours.fold(inputs), []
    for stage in ours.stages:
        maps = stage(maps)
        widths.append(maps.shape[1])
    assert tuple(widths) == ours.widths


def test_resnet18_of_one_channel():
    sizes = [p.numel() for p in ResNet18(GRAY).parameters()]
    assert (len(sizes), sum(sizes)) == (60, 11_170_240)
    assert sum(p.numel() for p in ResNet18(IMAGE).parameters()) == 11_176_512


@pytest.mark.parametrize("stride", [1, 2])
def test_one_pixel_convolution_equals_the_whole_one(stride):
    conv = OnePixelConv(5, 6, 3, stride=stride, padding=1, bias=False).double()
    pictures = torch.randn(4, 5, 1, 1, dtype=torch.float64, requires_grad=True)
    values, gradients = [], []
    for forward in (conv.forward, lambda x: nn.Conv2d.forward(conv, x)):
        out = forward(pictures)
        values.append(out)
        gradients.append(torch.autograd.grad(out.square().sum(), [pictures, conv.weight]))
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)


def test_bfloat16_gradients_of_small_pictures_are_finite():
    """Where oneDNN leaves gradients of padded taps unwritten, one in ten of these was not."""
    for seed in range(60):
        torch.manual_seed(seed)
        encoder = ENCODERS["cnn"](Modality("image", (1, 8, 8)))
        with torch.autocast("cpu", torch.bfloat16):
            features = encoder(torch.randn(16, 1, 8, 8))
        features.float().square().mean().backward()
        assert all(p.grad.isfinite().all() for p in encoder.parameters())


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "resnet18.pt"
    torch.save(torchvision.models.resnet18().state_dict(), path)
    return path


class TestPretrained:
    def test_one_channel_sees_gray_as_three_equal_channels(self, file):
        color, gray = (ResNet18(m, pretrained=str(file)).eval() for m in (IMAGE, GRAY))
        state = torch.load(file, weights_only=True)
        assert torch.equal(color.stages[0][0].weight, state["conv1.weight"])
        picture = torch.randn(2, 1, 32, 32)
        expected = color(picture.expand(2, 3, 32, 32))
        torch.testing.assert_close(gray(picture), expected, rtol=1e-4, atol=1e-4)

    def test_without_network(self, monkeypatch):
        def fail(*_, **__):
            raise URLError("no route to host")

        monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
        with pytest.raises(UserError, match=r"could not be downloaded.*give --pretrained FILE"):
            ResNet18(IMAGE, pretrained="published")

    def test_missing_file(self, tmp_path):
        with pytest.raises(UserError, match=r"--pretrained .*nothing.pt: no such file"):
            ResNet18(IMAGE, pretrained=str(tmp_path / "nothing.pt"))

    @pytest.mark.parametrize("content", [{"conv1.weight": torch.ones(2)}, [1, 2], {}])
    def test_other_content(self, tmp_path, content):
        torch.save(content, tmp_path / "other.pt")
        with pytest.raises(UserError, match="not a state dict of torchvision's resnet18"):
            ResNet18(IMAGE, pretrained=str(tmp_path / "other.pt"))

    def build(self, file, *encoders):
        words = ["--dataset", "toy", "--pretrained", str(file), "--encoder", *encoders]
        flags = options.parse(words)
        return setup.build_model(flags, setup.load_data(flags))

    def test_only_encoders_that_can(self, file):
        encoder = self.build(file, "cnn", "b=resnet18").encoders["b"]
        state = torch.load(file, weights_only=True)
        assert torch.equal(encoder.stages[4][1].conv2.weight, state["layer4.1.conv2.weight"])

    def test_no_encoder_can(self, file):
        with pytest.raises(UserError, match="no modality here has no encoder that can be pretrain"):
            self.build(file, "cnn")

    def test_by_modality(self, file):
        """A later word counts more, and a modality without pretrainable encoder is an error."""
        flags = options.parse(["--dataset", "toy", "--pretrained", "--encoder", "b=cnn"])
        chosen = setup.chosen_encoders(flags, setup.load_data(flags))
        assert setup.pretrained(flags, chosen) == {"a": "published"}
        flags.pretrained += [f"a={file}"]
        assert setup.pretrained(flags, chosen) == {"a": str(file)}
        flags.pretrained = ["b=published"]
        with pytest.raises(UserError, match="b=published: b has no encoder that can be pretrained"):
            setup.pretrained(flags, chosen)


@pytest.mark.parametrize(
    "name", ["joint", "heads", "fusion", "audio.left", "type", "values", "", "a b"]
)
def test_names_that_no_modality_can_have(name, monkeypatch):
    flags = options.parse(["--dataset", "toy", "--encoder", "cnn"])
    data = setup.load_data(flags)._replace(modalities={name: IMAGE})
    with pytest.raises(UserError, match="a modality cannot be called"):
        setup.build_model(flags, data)


class Given(nn.Identity):
    out_dim = 2


class Unpooled(nn.Identity):
    out_dim = 3


def test_an_encoder_that_returns_another_shape():
    model = Concat({"x": Given(), "y": Unpooled()}, 2)
    with pytest.raises(UserError, match=r"of y \(Unpooled\) returned \(4, 3, 7\), \(4, 3\) expect"):
        model({"x": torch.ones(4, 2), "y": torch.ones(4, 3, 7)})


@pytest.mark.parametrize("fusion", [Concat, Sum])
def test_joint_logits_by_hand(fusion):
    weight = torch.tensor([[1.0, 2, 3, 4], [0, 1, 0, -1]])
    bias = torch.tensor([0.4, -0.2])
    model = fusion({"x": Given(), "y": Given()}, 2)
    if fusion is Concat:
        model.joint_head.weight.data, model.joint_head.bias.data = weight, bias
    else:
        for head, columns in zip(model.joint_heads.values(), weight.split(2, 1), strict=True):
            head.weight.data, head.bias.data = columns, bias / 2
    output = model({"x": torch.tensor([[1.0, -1]]), "y": torch.tensor([[2.0, 0.5]])})
    torch.testing.assert_close(output.joint, torch.tensor([[7.4, -1.7]]))
    parts = model.read_out(output.features)
    torch.testing.assert_close(parts["x"], torch.tensor([[-0.8, -1.1]]))
    torch.testing.assert_close(parts["y"], torch.tensor([[8.2, -0.6]]))


@pytest.mark.parametrize("fusion", [Concat, Sum])
@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_unimodal_heads_see_their_own_feature_only(fusion, modalities):
    names = "abc"[:modalities]
    model = fusion({name: Given() for name in names}, 3)
    inputs = {name: torch.randn(4, 2, requires_grad=True) for name in names}
    output = model(inputs)
    assert output.joint.shape == (4, 3)
    for name in names:
        assert torch.equal(output.unimodal[name], model.unimodal_heads[name](inputs[name]))


def test_memory_format_changes_nothing_but_rounding():
    """Gradients, their Gramian and what fused SGD makes of them, in both memory formats."""
    found = []
    start = ResNet18(IMAGE).double()
    inputs = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    for layout in (torch.contiguous_format, torch.channels_last):
        encoder, grams = deepcopy(start).to(memory_format=layout), []
        params = list(encoder.parameters())
        optimizer = torch.optim.SGD(params, lr=0.1, momentum=0.9, fused=True)
        model = nn.ModuleDict({"x": encoder})

        def observed(j, g, grams=grams):
            grams.append(integrate.gramian(j, g))
            return integrate.mmpareto_rule(j, g, gram=grams[-1])

        for _ in range(2):
            optimizer.zero_grad()
            z = encoder(inputs)
            Integrator(model, model, observed).backward(z.square().mean(), {"x": z.sin().mean()})
            optimizer.step()
        found.append([*grams, *(p.detach().contiguous() for p in params)])
    torch.testing.assert_close(*found, rtol=1e-6, atol=1e-9)


def test_optimizer_state_of_another_memory_format():
    """A fused optimizer reads buffers in the order of memory: they are laid out anew."""

    def stepped(param, layout, state=None):
        optimizer = torch.optim.SGD([param], lr=0.1, momentum=0.9, fused=True)
        if state:
            checkpoint.load_optimizer(optimizer, state)
        param.grad = torch.randn(param.shape).to(memory_format=layout)
        optimizer.step()
        return optimizer.state_dict()

    found, plain = [], torch.contiguous_format
    for first in (plain, torch.channels_last):
        torch.manual_seed(1)
        before = nn.Parameter(torch.randn(2, 4, 3, 3).to(memory_format=first))
        state = stepped(before, first)
        found.append(nn.Parameter(before.detach().clone(memory_format=plain)))
        stepped(found[-1], plain, state)
    assert torch.equal(*found)
