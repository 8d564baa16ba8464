import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from advnas_lightning.objectives import LanguageModelling, Window
from advnas_lightning.space import Architecture, Genotype, SearchSpace
from advnas_lightning.tasks.ptb import RecurrentLM
from advnas_lightning.tasks.ptb.model import LINEAR_CROSS_ENTROPY as FUSED
from tests.support.speed import slow_but

CANDIDATES = ("identity", "tanh", "sigmoid", "relu", "zero")
ACTS = {
    "identity": lambda u: u,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "zero": torch.zeros_like,
}
ONE_HOT = [(0, 0, 0, 0, 0, 0), (1, 4, 3, 2, 0, 1), (4, 4, 4, 4, 4, 4), (2, 3, 1, 3, 4, 0)]
WORDS, STEPS, STREAMS = 11, 6, 3


def make(**options: Any) -> RecurrentLM:
    torch.manual_seed(0)
    model = RecurrentLM(**{"words": WORDS, "embedding_size": 4, "hidden_size": 5, **options}).double()
    with torch.no_grad():  # large enough for the gates and activations to be far from linear
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
    return model


def draw(space: SearchSpace, choice: tuple[int, ...] | None) -> Architecture:
    """One-hot, or gates for all candidates at once."""
    if choice is not None:
        one_hot = space.one_hot(choice)
        return Architecture(one_hot.gates.double(), one_hot.paths, choice=choice)
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(space.mask.shape, generator=generator, dtype=torch.double).softmax(1)
    return Architecture(weights, (tuple(range(len(CANDIDATES))),) * len(space))


def text(steps: int = STEPS, seed: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(WORDS, (steps + 1, STREAMS), generator=generator)
    return tokens[:-1], tokens[1:]


def reference(
    model: RecurrentLM, gates: Tensor, tokens: Tensor, hidden: Tensor, max_norm: float | None
) -> tuple[Tensor, Tensor]:
    """The cell of §5.3 and Appendix E written out: one stream, one edge, one candidate, one matrix at a time."""
    size, nodes = model.hidden_size, model.nodes
    w_in = torch.cat([model.input_weight, model.hidden_weight], dim=1)  # [2H, E + H]
    edges = [(i, j) for j in range(1, nodes + 1) for i in range(j)]
    row = dict(zip(edges, gates, strict=True))
    logits = torch.zeros(*tokens.shape, WORDS, dtype=torch.double)
    after = []
    for b in range(tokens.shape[1]):
        h = hidden[b]
        for t in range(tokens.shape[0]):
            xh = torch.cat([model.embedding.weight[tokens[t, b]], h])
            c_in = torch.sigmoid(w_in[:size] @ xh)
            x = [h + c_in * (torch.tanh(w_in[size:] @ xh) - h)]
            for j in range(1, nodes + 1):
                total = torch.zeros(size, dtype=torch.double)
                for i in range(j):
                    weight = model.node_weights[i]
                    place, half = (j - i - 1) * size, (nodes - i) * size
                    w_c, w_h = weight[place : place + size], weight[half + place : half + place + size]
                    c = torch.sigmoid(w_c @ x[i])
                    for gate, name in zip(row[i, j], CANDIDATES, strict=True):
                        total = total + gate * (x[i] + c * (ACTS[name](w_h @ x[i]) - x[i]))
                x.append(total / j)
            out = sum(x[1:]) / nodes
            logits[t, b] = model.decoder.weight @ out + model.decoder.bias
            h = out if max_norm is None or out.norm() <= max_norm else out * max_norm / out.norm()
        after.append(h)
    return logits, torch.stack(after)


@pytest.mark.parametrize("max_norm", [None, 0.7])
@pytest.mark.parametrize("choice", [*ONE_HOT, None], ids=str)
def test_equals_a_slow_loop(choice: tuple[int, ...] | None, max_norm: float | None) -> None:
    model = make(hidden_max_norm=max_norm).eval()
    space = SearchSpace(model)
    architecture = draw(space, choice)
    tokens, _ = text()
    hidden = torch.randn(STREAMS, 5, dtype=torch.double)
    with torch.no_grad(), space.bind(architecture):
        logits, after = model(tokens, hidden)
        expected, expected_after = reference(model, architecture.gates, tokens, hidden, max_norm)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(after, expected_after, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_any_number_of_nodes_equals_a_slow_loop(nodes: int) -> None:
    model = make(nodes=nodes).eval()
    space = SearchSpace(model)
    assert len(space) == nodes * (nodes + 1) // 2
    architecture = draw(space, None)
    tokens, _ = text()
    with torch.no_grad(), space.bind(architecture):
        logits, _ = model(tokens)
        expected, _ = reference(model, architecture.gates, tokens, torch.zeros(STREAMS, 5).double(), 25.0)
    torch.testing.assert_close(logits, expected, rtol=1e-10, atol=1e-12)


def test_discrete_network_is_the_supernet_with_that_choice() -> None:
    model = make().eval()
    space = SearchSpace(model)
    tokens, _ = text()
    plain = space.genotype(ONE_HOT[1]).apply(model)
    with torch.no_grad(), space.bind(draw(space, ONE_HOT[1])):
        torch.testing.assert_close(plain(tokens)[0], model(tokens)[0], rtol=0, atol=0)


@pytest.mark.parametrize("max_norm", slow_but([25.0, 0.7], [0.7]))
@pytest.mark.parametrize("choice", [*ONE_HOT, None], ids=str)
def test_gate_gradient_equals_finite_differences(choice: tuple[int, ...] | None, max_norm: float | None) -> None:
    model = make(hidden_max_norm=max_norm).eval()
    space = SearchSpace(model)
    tokens, targets = text()
    architecture = draw(space, choice)
    gates = architecture.gates.clone().requires_grad_()
    with space.bind(architecture, gates):
        loss = F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())
        (gradient,) = torch.autograd.grad(loss, gates)

    def loss_at(weights: Tensor) -> Tensor:
        dense = Architecture(weights, (tuple(range(len(CANDIDATES))),) * len(space))
        with torch.no_grad(), space.bind(dense):
            return F.cross_entropy(model(tokens)[0].flatten(0, 1), targets.flatten())

    expected = torch.zeros_like(gradient)
    for edge, j in itertools.product(range(len(space)), range(len(CANDIDATES))):
        if choice is not None and choice[edge] != j:
            continue  # did not run: no gradient
        step = torch.zeros_like(gradient)
        step[edge, j] = 1e-5
        expected[edge, j] = (loss_at(architecture.gates + step) - loss_at(architecture.gates - step)) / 2e-5
    torch.testing.assert_close(gradient, expected, rtol=1e-5, atol=1e-8)


def test_hidden_state_joins_windows() -> None:
    model = make().eval()
    space = SearchSpace(model)
    tokens, _ = text(2 * STEPS)
    with torch.no_grad(), space.bind(draw(space, ONE_HOT[1])):
        whole, after_whole = model(tokens)
        first, hidden = model(tokens[:STEPS])
        second, after_second = model(tokens[STEPS:], hidden)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(after_second, after_whole, rtol=1e-12, atol=1e-12)


def test_hidden_max_norm_holds_the_carried_state_alone() -> None:
    grown = {}
    for max_norm in (2.0, None):
        model = make(hidden_max_norm=max_norm).eval()
        with torch.no_grad():
            for weight in model.node_weights:
                weight.mul_(10)
        plain = SearchSpace(model).genotype((0,) * 6).apply(model)  # identity on every edge
        tokens, _ = text(40)
        with torch.no_grad():
            logits, hidden = plain(tokens)
            outputs = torch.linalg.lstsq(model.decoder.weight, (logits[-1] - model.decoder.bias).T).solution.T
        grown[max_norm] = hidden.norm(dim=-1)
        torch.testing.assert_close(hidden / hidden.norm(dim=-1, keepdim=True), F.normalize(outputs))
        if max_norm is not None:
            assert (outputs.norm(dim=-1) > 2 * max_norm).all()  # what is emitted is not rescaled
    torch.testing.assert_close(grown[2.0], torch.full((STREAMS,), 2.0).double())
    assert (grown[None] > 1e3).all()


def test_a_state_of_zeros_has_a_gradient() -> None:
    model = make()
    with torch.no_grad():
        model.input_weight.zero_()  # tanh(0) and a state of zeros: every node is zero
    plain = SearchSpace(model).genotype((4,) * 6).apply(model)
    logits, hidden = plain(text()[0])
    logits.logsumexp(-1).sum().backward()
    assert not hidden.any()
    assert all(p.grad is None or p.grad.isfinite().all() for p in plain.parameters())


def test_parameters_are_counted_as_in_the_papers_table() -> None:
    model = RecurrentLM(words=10_000)
    space = SearchSpace(model)
    assert space.edges == ("0->1", "0->2", "1->2", "0->3", "1->3", "2->3")
    assert model.count_parameters() == 7_440_000
    for choice, zeros in (((0, 1, 2, 3, 0, 1), 0), ((4, 1, 2, 3, 0, 4), 2), ((4,) * 6, 6)):
        assert space.genotype(choice).apply(model).count_parameters() == 7_440_000 - zeros * 2 * 300 * 300


def test_zero_is_declared_a_zero_operation() -> None:
    space = SearchSpace(RecurrentLM(words=10, candidates=("zero", "relu")))
    assert space.zero_ops.tolist() == [[True, False]] * 6


def test_initial_weights() -> None:
    model = RecurrentLM(words=50)
    assert not model.decoder.bias.any()
    for name, parameter in model.named_parameters():
        if name != "decoder.bias":
            assert 0.099 < parameter.abs().max() <= 0.1, name
    assert model.decoder.weight is not model.embedding.weight
    assert [name for name, _ in model.named_parameters() if "bias" in name] == ["decoder.bias"]


def test_dropout_is_for_training() -> None:
    model = Genotype(dict.fromkeys(RecurrentLM(words=WORDS).edges, "tanh")).apply(make())
    tokens, _ = text()
    assert not torch.equal(model(tokens)[0], model(tokens)[0])
    model.eval()
    assert torch.equal(model(tokens)[0], model(tokens)[0])


def test_dropout_spares_the_carried_state() -> None:
    model = Genotype(dict.fromkeys(RecurrentLM(words=WORDS).edges, "tanh")).apply(make())
    with torch.no_grad():
        model.input_weight.zero_()  # what dropout does to the embedding then does not matter
    tokens, _ = text()
    hidden = torch.randn(STREAMS, 5, dtype=torch.double)
    after = [model(tokens, hidden)[1] for _ in range(2)]
    assert torch.equal(after[0], after[1])
    assert not (after[0] == 0).any()


def test_runs_under_autocast() -> None:
    model = RecurrentLM(words=WORDS, embedding_size=4, hidden_size=5)
    space = SearchSpace(model)
    for choice in (ONE_HOT[1], None):
        with space.bind(draw(space, choice)), torch.autocast("cpu", dtype=torch.bfloat16):
            logits, hidden = model(text()[0])
            logits, hidden = model(text()[0], hidden)
        assert hidden.dtype is torch.float32
        assert logits.isfinite().all()
        logits.float().sum().backward()


def test_pickles() -> None:
    assert pickle.loads(pickle.dumps(make())).count_parameters() == make().count_parameters()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"candidates": ("tanh", "gelu")}, "'gelu'"),
        ({"candidates": ("tanh", "tanh")}, "each once"),
        ({"candidates": ()}, "at least one"),
    ],
)
def test_bad_candidates_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RecurrentLM(**options)


# The loss in the place of logits.


class Alone(nn.Module):
    """A network that does not take targets, so that the loss is computed from all logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> Any:
        return self.model(tokens, hidden)


def loss_and_gradients(model: nn.Module, window: Window) -> list[Tensor]:
    loss = LanguageModelling("sum_time")(model, window).loss  # whose gradient is scaled
    return [loss.detach(), *torch.autograd.grad(loss, list(model.parameters()))]


@pytest.mark.parametrize("ignored", [0, 4])
def test_the_loss_is_that_of_all_logits(ignored: int) -> None:
    model = Genotype(dict.fromkeys(make().edges, "tanh")).apply(make()).eval()
    inputs, targets = text()
    targets = targets.clone()
    targets.view(-1)[:ignored] = -100  # as a text's last window is padded
    given = Window(inputs, targets, 0, "train", targets.numel() - ignored)
    found, wanted = loss_and_gradients(model, given), loss_and_gradients(Alone(model), given)
    for value, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-10, equal_nan=True)


@pytest.mark.parametrize("case", ["an old PyTorch", "a hook", "another module", "autocast"])
def test_logits_are_computed_where_they_must_be(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Genotype(dict.fromkeys(make().edges, "tanh")).apply(make()).eval().float()
    inputs, targets = text()
    if case == "an old PyTorch":
        monkeypatch.setattr("advnas_lightning.tasks.ptb.model.LINEAR_CROSS_ENTROPY", False)
    elif case == "a hook":
        model.decoder.register_forward_hook(lambda module, args, output: output / 2)
    elif case == "another module":
        model.decoder = nn.Sequential(model.decoder, nn.Tanh())
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"):
        loss, _ = model(inputs, None, targets)
        logits, _ = model(inputs, None)
    wanted = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten())
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=0)


def test_an_architecture_step_leaves_out_the_decoders_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make().eval()
    space = SearchSpace(model)
    drawn, (inputs, targets), weight = draw(space, ONE_HOT[1]), text(), model.decoder.weight
    found = []
    for fused in (FUSED, False):
        monkeypatch.setattr("advnas_lightning.tasks.ptb.model.LINEAR_CROSS_ENTROPY", fused)
        for only_gates in (True, False):
            leaf = drawn.gates.clone().requires_grad_()
            with space.bind(drawn, leaf, only_gates=only_gates):
                loss, _ = model(inputs, None, targets)
            gates, own = torch.autograd.grad(loss, [leaf, weight], allow_unused=True)
            found.append(gates)
            assert (own is None) == (only_gates and fused)
    for gates in found:
        torch.testing.assert_close(gates, found[-1], rtol=1e-10, atol=1e-12)


def test_a_subclass_may_have_a_forward_that_knows_no_targets() -> None:
    class Own(RecurrentLM):
        def forward(self, tokens: Tensor, hidden: Tensor | None = None) -> Any:  # type: ignore[override]
            logits, after = super().forward(tokens, hidden)
            return logits / 2, after

    torch.manual_seed(0)
    model = Own(words=WORDS, embedding_size=4, hidden_size=5)
    model = Genotype(dict.fromkeys(model.edges, "tanh")).apply(model).eval()
    given = window(0)
    wanted = F.cross_entropy(model(given.inputs)[0].flatten(0, 1), given.targets.flatten())
    assert torch.equal(LanguageModelling()(model, given).loss, wanted)


def test_an_overflow_is_no_finite_loss() -> None:
    model = Genotype(dict.fromkeys(make().edges, "tanh")).apply(make()).eval()
    with torch.no_grad():
        model.decoder.bias[3] = torch.inf
    inputs, targets = text()
    assert not model(inputs, None, targets)[0].isfinite()


# The task that carries this network's state: LanguageModelling.


class Recorder(nn.Module):
    """Remembers the states that a network was started from."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.starts: list[Tensor | None] = []
        self.ends: list[Tensor] = []

    def forward(self, tokens: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor]:
        logits, after = self.model(tokens, hidden)
        self.starts.append(hidden)
        self.ends.append(after)
        return logits, after


def window(index: int, name: str = "train", seed: int | None = None) -> Window:
    inputs, targets = text(seed=index if seed is None else seed)
    return Window(inputs, targets, index, name, targets.numel())


@pytest.fixture
def networks() -> tuple[Recorder, Recorder]:
    """Two architectures of the same weights."""
    model = make().eval()
    space = SearchSpace(model)
    return tuple(Recorder(space.genotype(choice).apply(model)) for choice in ONE_HOT[:2])


def test_task_carries_the_state_detached_and_starts_anew_at_window_0(networks: tuple[Recorder, Recorder]) -> None:
    task, model = LanguageModelling(), networks[0]
    for index in (0, 1, 2, 0):
        task(model, window(index)).loss.backward()
    assert model.starts[0] is None
    assert torch.equal(model.starts[1], model.ends[0])
    assert torch.equal(model.starts[2], model.ends[1])
    assert model.starts[3] is None
    assert model.ends[0].requires_grad
    assert not model.starts[1].requires_grad


def test_task_keeps_a_state_for_each_text(networks: tuple[Recorder, Recorder]) -> None:
    task, model = LanguageModelling(), networks[0]
    for name in ("train", "valid"):
        task(model, window(0, name, seed=ord(name[0])))
    for name in ("valid", "train"):
        task(model, window(1, name))
    ends = {"train": model.ends[0], "valid": model.ends[1]}
    assert not torch.equal(ends["train"], ends["valid"])
    assert torch.equal(model.starts[2], ends["valid"])
    assert torch.equal(model.starts[3], ends["train"])


def test_task_moves_on_once_for_each_window(networks: tuple[Recorder, Recorder]) -> None:
    task, (first, second) = LanguageModelling(), networks
    windows = [window(0), window(1), window(2)]
    task(first, windows[0])
    losses = [task(first, windows[1]).loss, task(second, windows[1]).loss, task(first, windows[1]).loss]
    assert torch.equal(losses[0], losses[2])
    assert not torch.equal(losses[0], losses[1])
    assert torch.equal(second.starts[0], first.ends[0])  # the other architecture starts where the first one did
    task(second, windows[2])
    assert torch.equal(second.starts[1], first.ends[1])  # and the first one's state is what moves on
