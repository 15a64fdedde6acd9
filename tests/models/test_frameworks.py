"""Every fusion beyond concat and sum: predictions and gradients, against literal re-statements."""

import pytest
import reference_frameworks as literal
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_map_only

from mmpareto import MMPareto
from mmpareto.core import integrate
from mmpareto.core.integrator import Integrator
from mmpareto.data.samples import Modality
from mmpareto.models.encoders import ENCODERS
from mmpareto.models.fusions import FUSIONS
from mmpareto.models.fusions.base import Fusion
from mmpareto.models.fusions.centralnet import Central
from mmpareto.run import options, setup
from mmpareto.system.errors import UserError

CLASSES = 3
STAGED = {
    "photo": ("cnn", Modality("image", (1, 16, 20))),
    "table": ("mlp", Modality("array", (7,))),
    "film": ("cnn", Modality("frames", (2, 3, 12, 12))),
}
TOKENS = {
    "photo": ("transformer", Modality("image", (1, 3, 6))),
    "text": ("transformer", Modality("tokens", (5,), 11)),
    "film": ("transformer", Modality("frames", (2, 3, 4, 4))),
}
FRAMEWORKS = dict.fromkeys(("film", "gated", "mmtm", "centralnet"), STAGED)
FRAMEWORKS |= {"bottleneck": TOKENS}


def build(fusion, kinds, **settings):
    encoders = {name: ENCODERS[encoder](modality) for name, (encoder, modality) in kinds.items()}
    return FUSIONS[fusion](encoders, CLASSES, **settings).double()


def batch(kinds):
    inputs, size = {}, 2 if kinds.items() <= TOKENS.items() else 4  # literal tokens take long
    for name, (_, modality) in kinds.items():
        if modality.vocabulary:
            inputs[name] = torch.randint(1, modality.vocabulary, (size, *modality.shape))
            inputs[name][1, 3:] = 0
        else:
            inputs[name] = torch.randn(size, *modality.shape, dtype=torch.float64)
    return inputs, torch.arange(size) % CLASSES


def framework(fusion, modalities):
    kinds = dict(list(FRAMEWORKS[fusion].items())[:modalities])
    return build(fusion, kinds), *batch(kinds)


@pytest.mark.parametrize(
    ("fusion", "modalities"),
    [*((fusion, 2) for fusion in FRAMEWORKS if fusion != "bottleneck"),
     *((fusion, 3) for fusion in FRAMEWORKS)],
)  # fmt: skip
def test_predictions_and_gradients_equal_the_literal_ones(fusion, modalities):
    """Of encoder k: of the joint loss and its own; of all that is in no encoder: of every loss."""
    model, inputs, targets = framework(fusion, modalities)
    output = model(inputs)
    joint, unimodal = getattr(literal, fusion)(model, inputs)
    torch.testing.assert_close(output.joint, joint)
    assert output.unimodal.keys() == unimodal.keys() == model.encoders.keys()
    for name, logits in unimodal.items():
        torch.testing.assert_close(output.unimodal[name], logits)

    integrator = Integrator(model, model.encoders, integrate.uniform_rule, late=model.late)
    integrator.backward(output.joint_loss(targets), output.unimodal_losses(targets))

    joint = F.cross_entropy(joint, targets)
    unimodal = {name: F.cross_entropy(logits, targets) for name, logits in unimodal.items()}
    inside = set(model.encoders.parameters())
    rest = [p for p in model.parameters() if p not in inside]
    parts = [(joint + unimodal[name], list(e.parameters())) for name, e in model.encoders.items()]
    for loss, params in [*parts, (joint + sum(unimodal.values()), rest)]:
        expected = torch.autograd.grad(loss, params, retain_graph=True)
        for param, gradient in zip(params, expected, strict=True):
            torch.testing.assert_close(param.grad, gradient, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("fusion", list(FRAMEWORKS))
def test_cross_terms_are_where_the_fusion_says_and_are_left_out(fusion):
    """Other modalities' losses reach an encoder, and no method's gradient of it has them.

    CentralNet's branches do not see each other: a loss has exactly no gradient elsewhere.
    """
    model, inputs, targets = framework(fusion, 2)
    output = model(inputs)
    losses = output.unimodal_losses(targets)
    first, second = model.encoders
    params = list(model.encoders[first].parameters())
    cross = torch.autograd.grad(losses[second], params, retain_graph=True, allow_unused=True)
    cross = [g.abs().max() for g in cross if g is not None]
    assert model.late is (fusion not in ("mmtm", "bottleneck"))
    assert not cross if model.late else max(cross) > 1e-6

    zero = 0 * output.joint_loss(targets)
    silent = {first: 0 * losses[first], second: losses[second]}
    MMPareto(model, model.encoders, late=model.late).backward(zero, silent)
    assert all(not p.grad.any() for p in params)
    assert any(p.grad.any() for p in model.encoders[second].parameters())


@pytest.mark.parametrize("fusion", list(FRAMEWORKS))
def test_training_and_evaluation_say_the_same(fusion):
    """But for BatchNorm: with its running statistics both modes predict and read out alike."""
    model, inputs, _ = framework(fusion, 2)
    model(inputs)
    model.eval()
    with torch.no_grad():
        quiet = model(inputs)
    for module in model.modules():
        module.training = not isinstance(module, nn.modules.batchnorm._BatchNorm)
    loud = model(inputs)
    torch.testing.assert_close(quiet.joint, loud.joint)
    for name in model.encoders:
        torch.testing.assert_close(quiet.unimodal[name], loud.unimodal[name])
    if type(model).read_out is not Fusion.read_out:
        for name, logits in model.read_out(quiet.features).items():
            torch.testing.assert_close(logits, model.read_out(loud.features)[name])


class Given(nn.Identity):
    out_dim = 1


class TestConditioned:
    @pytest.mark.parametrize(
        ("fusion", "weights", "joint", "without_v", "without_a"),
        [
            (
                "film", {"condition.v.weight": [[2.0], [1]], "condition.v.bias": [0.5, -0.5]},
                [8.0, -7.9], [0.5, -0.4], [1.0, -0.9],
            ),
            (
                "gated",
                {"project.a.weight": [[1.0]], "project.a.bias": [0.0],
                 "project.v.weight": [[2.0]], "project.v.bias": [1.0]},
                [5.1174, -5.0174], [0.7311, -0.6311], [3.5, -3.4],
            ),
        ],
    )  # fmt: skip
    def test_by_hand(self, fusion, weights, joint, without_v, without_a):
        model = FUSIONS[fusion]({"a": Given(), "v": Given()}, 2)
        head = {"joint_head.weight": [[1.0], [-1]], "joint_head.bias": [0, 0.1]}
        for name, value in {**weights, **head}.items():
            model.state_dict()[name].copy_(torch.tensor(value))
        output = model({"a": torch.tensor([[1.0]]), "v": torch.tensor([[3.0]])})
        parts = model.read_out(output.features)
        found = [x[0].tolist() for x in (output.joint, parts["a"], parts["v"])]
        torch.testing.assert_close(found, [joint, without_v, without_a], rtol=0, atol=1e-4)

    @pytest.mark.parametrize("fusion", ["film", "gated"])
    def test_another_conditioner(self, fusion):
        kinds = {"a": STAGED["table"], "b": STAGED["table"]}
        first, second = (build(fusion, kinds, conditioner=name) for name in "ab")
        table = {"a": "b", "b": "a"}
        swapped = {
            ".".join(table.get(word, word) for word in name.split(".")): value
            for name, value in first.state_dict().items()
        }
        second.load_state_dict(swapped)
        inputs, _ = batch(kinds)
        turned = {table[name]: x for name, x in inputs.items()}
        torch.testing.assert_close(first(inputs).joint, second(turned).joint)
        assert not torch.allclose(first(inputs).joint, second(inputs).joint)

    @pytest.mark.parametrize("fusion", ["film", "gated"])
    def test_refusals(self, fusion):
        with pytest.raises(UserError, match="--conditioner c: one of two or more modalities"):
            build(fusion, dict.fromkeys("ab", STAGED["table"]), conditioner="c")
        with pytest.raises(UserError, match="two or more modalities expected, the data has a"):
            build(fusion, {"a": STAGED["table"]})

    def test_film_needs_one_width(self):
        encoders = {name: Given() for name in "abc"}
        for width, encoder in enumerate(encoders.values(), start=2):
            encoder.out_dim = width
        with pytest.raises(UserError, match="features of one width expected, found b 3, c 4"):
            FUSIONS["film"](encoders, 3)
        assert FUSIONS["gated"](encoders, 3).joint_head.in_features == 2


class TestCentralNet:
    def test_combination_by_hand(self):
        """a_C = 1, a = (.5, .5), h_C = 2, h = (4, -2): 2 + 2 - 1."""
        layer = Central({"a": 1, "b": 1}, 1, 1, first=False)
        for project in layer.project.values():
            nn.init.ones_(project.weight)
            nn.init.zeros_(project.bias)
        layer.layer = nn.Identity()
        one = torch.ones(1, 1, 1, 1)
        assert layer(2 * one, {"a": 4 * one, "b": -2 * one}).item() == 3

    def test_encoders_run_unmodified(self):
        model, inputs, _ = framework("centralnet", 3)
        output = model.eval()(inputs)
        for name, encoder in model.encoders.items():
            torch.testing.assert_close(output.features[name], encoder(inputs[name]))

    def test_probes_train_neither_encoders_nor_taps(self):
        model, inputs, _ = framework("centralnet", 2)
        detached = tree_map_only(torch.Tensor, torch.Tensor.detach, model(inputs))
        model.read(detached.features, detached.taps).joint.sum().backward()
        assert all(p.grad is None for p in model.encoders.parameters())
        assert all(p.grad is not None for p in model.central.parameters())

    def test_encoder_without_stages(self):
        match = r"centralnet: the encoder of photo \(Transformer\) does"
        with pytest.raises(UserError, match=match):
            build("centralnet", TOKENS)

    def test_as_many_layers_as_the_shallowest_encoder_has_stages(self):
        model = build("centralnet", STAGED)
        assert len(model.central) == 2
        assert model.central[0].central_weight is None


class TestBottleneck:
    @pytest.mark.parametrize(("fusion_layer", "leaks"), [(4, False), (3, False), (2, True)])
    def test_without_shared_layers_modalities_are_apart(self, fusion_layer, leaks):
        """One layer of sharing reads the tokens before anyone has written into them."""
        kinds = {name: TOKENS[name] for name in ("photo", "text")}
        model = build("bottleneck", kinds, fusion_layer=fusion_layer)
        inputs, _ = batch(kinds)
        before = model(inputs)
        inputs["text"] = inputs["text"].roll(1, 0)
        after = model(inputs)
        assert torch.equal(before.unimodal["photo"], after.unimodal["photo"]) is not leaks
        assert not torch.equal(before.joint, after.joint)

    def test_refusals(self):
        with pytest.raises(UserError, match=r"encoder of table \(MLP\) makes no tokens"):
            build("bottleneck", STAGED | {"photo": TOKENS["photo"]})
        with pytest.raises(UserError, match="--fusion_layer 5: the encoders have 4 layers"):
            build("bottleneck", TOKENS, fusion_layer=5)

    def test_transformer_is_its_default_encoder(self):
        flags = options.parse(["--dataset", "toy", "--fusion", "bottleneck", "--bottlenecks", "7"])
        model = setup.build_model(flags, setup.load_data(flags))
        assert model.tokens.shape == (1, 7, 64)
        assert {type(e).__name__ for e in model.encoders.values()} == {"Transformer"}


class TestTransformer:
    def text(self, vocabulary=11, length=6):
        return ENCODERS["transformer"](Modality("tokens", (length,), vocabulary)).double()

    def test_padding_changes_nothing(self):
        """A text that ends early is what it would be without room behind it."""
        encoder = self.text()
        words = torch.tensor([[3, 1, 4, 0, 0, 0]])
        shorter = self.text(length=3)
        state = encoder.state_dict()
        shorter.load_state_dict(state | {"positions": state["positions"][:, :4]})
        torch.testing.assert_close(encoder(words), shorter(words[:, :3]))

    def test_order_and_words_matter(self):
        encoder = self.text()
        words = torch.tensor([[3, 1, 4, 0, 0, 0], [1, 3, 4, 0, 0, 0], [3, 1, 5, 0, 0, 0]])
        assert len(encoder(words).unique(dim=0)) == 3

    def test_an_empty_text_is_finite(self):
        assert self.text()(torch.zeros(2, 6, dtype=torch.int64)).isfinite().all()

    @pytest.mark.parametrize(
        ("modality", "tokens"),
        [
            (Modality("image", (3, 224, 224)), 14 * 14),
            (Modality("spectrogram", (1, 257, 188)), 17 * 12),
            (Modality("image", (1, 28, 28)), 7 * 7),
            (Modality("frames", (2, 3, 32, 32)), 2 * 8 * 8),
            (Modality("flow", (3, 2, 8, 8)), 3 * 4),
            (Modality("array", (7,)), 1),
            (Modality("array", (9, 7)), 9),
        ],
    )
    def test_number_of_tokens(self, modality, tokens):
        encoder = ENCODERS["transformer"](modality)
        found, padding = encoder.embed(torch.randn(2, *modality.shape))
        assert found.shape == (2, 1 + tokens, 64) and padding is None
        assert encoder(torch.randn(2, *modality.shape)).shape == (2, 64)
