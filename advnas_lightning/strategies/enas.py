"""The strategy ENAS and its controller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from advnas_lightning import functional
from advnas_lightning.engine.evaluation import Trial
from advnas_lightning.engine.steps import Term
from advnas_lightning.strategies.reinforce import REINFORCE
from advnas_lightning.validate import check_int, check_positive

DRAWS = 128  # over which the conditionals are averaged


class Controller(nn.Module):
    """An LSTM that chooses a candidate for one edge after the other, each conditioned on the earlier choices.

    Args:
        mask: ``[E, J]`` bool, true where an edge has a candidate.
        hidden_size: The number of units of the single layer.
        temperature: The number that divides the logits.
        tanh_constant: The constant c of c · tanh(logits / temperature), or ``None`` for no bound.

    Example:
        >>> mask = torch.tensor([[True, True], [True, False]])
        >>> Controller(mask)(torch.tensor([[0, 0]])).shape
        torch.Size([1, 2, 2])
    """

    def __init__(
        self, mask: Tensor, *, hidden_size: int = 64, temperature: float = 1.0, tanh_constant: float | None = None
    ) -> None:
        super().__init__()
        edges, width = mask.shape
        self.temperature, self.tanh_constant = temperature, tanh_constant
        self.mask: Tensor
        self.register_buffer("mask", mask, persistent=False)
        self.inputs = nn.Embedding(1 + edges * width, hidden_size)  # a start token and every candidate of every edge
        self.lstm = nn.LSTM(hidden_size, hidden_size)
        self.heads = nn.Parameter(torch.empty(edges, width, hidden_size))
        for parameter in self.parameters():  # small weights make the first draws nearly uniform (ENAS, Appendix A)
            nn.init.uniform_(parameter, -0.1, 0.1)

    def forward(self, choices: Tensor) -> Tensor:
        """The logarithm of p(a_e | a_<e) for every candidate, ``[N, E, J]``, given draws ``[N, E]``."""
        output, _ = self.lstm(self._embed(choices))  # [E, N, H]
        return self._log_probs(torch.einsum("enh,ejh->nej", output, self.heads), self.mask)

    def draw(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Draw ``[count, E]`` choices; without a generator take the most probable ones, and of equal ones the first."""
        token = self._embed(torch.empty(count, 0, dtype=torch.long, device=self.heads.device))  # [1, count, H]
        state, chosen = None, []
        for edge, (head, mask) in enumerate(zip(self.heads, self.mask, strict=True)):
            output, state = self.lstm(token, state)
            probs = self._log_probs(output[0] @ head.T, mask).exp().cpu()  # [count, J]
            pick = (
                probs.argmax(-1) if generator is None else torch.multinomial(probs, 1, generator=generator).squeeze(1)
            )
            chosen.append(pick.to(head.device))
            token = self.inputs(1 + edge * mask.numel() + chosen[-1]).unsqueeze(0)
        return torch.stack(chosen, 1)

    def _embed(self, choices: Tensor) -> Tensor:
        """The LSTM's inputs ``[min(e + 1, E), N, H]`` for a start token and a prefix of choices ``[N, e]``."""
        edges, width = self.mask.shape
        earlier = choices[:, : edges - 1]
        tokens = 1 + width * torch.arange(earlier.shape[1], device=choices.device) + earlier  # [N, e]
        embedded: Tensor = self.inputs(torch.nn.functional.pad(tokens, (1, 0)).T)
        return embedded

    def _log_probs(self, logits: Tensor, mask: Tensor) -> Tensor:
        logits = logits / self.temperature
        if self.tanh_constant is not None:
            logits = self.tanh_constant * logits.tanh()
        return functional.log_probs(logits, mask)


class ENAS(REINFORCE):
    """ENAS (Pham et al. 2018): REINFORCE with an LSTM controller in place of independent θ_i.

    The controller's weights are the architecture parameters. The reported entropy is (1/E) H(a) and the reported
    probabilities are the marginals of each edge. Both come from the conditionals p(a_i | a_<i), averaged over draws
    with a fixed seed of their own.

    Args:
        model: The network with MixedOp edges. The further arguments are those of :class:`REINFORCE`.
        hidden_size: The number of units of the LSTM.
        entropy_weight: The weight of the entropy bonus Σ_i H(p(a_i | a_<i)).
        temperature: The number that divides the logits.
        tanh_constant: The constant c of c · tanh(logits / temperature), or ``None`` for no bound.

    Raises:
        ValueError: An argument is invalid.

    Example:
        >>> from torch.optim import Adam
        >>> from advnas_lightning import MixedOp
        >>> edge = MixedOp("edge", {"linear": nn.Linear(8, 8), "skip": nn.Identity()})
        >>> search = ENAS(edge, architecture_optimizer=Adam, hidden_size=4)
        >>> len(search.draw()), sum(weight.numel() for weight in search.architecture_parameters())
        (1, 180)
    """

    has_independent_edges: ClassVar[bool] = False

    def __init__(
        self,
        model: nn.Module,
        *,
        hidden_size: int = 64,
        entropy_weight: float = 1e-4,
        temperature: float = 1.0,
        tanh_constant: float | None = None,
        **kwargs: Any,
    ) -> None:
        # The controller, which super() makes, has these.
        self.hidden_size = check_int("hidden_size", hidden_size, least=1)
        self.temperature = check_positive("temperature", temperature)
        self.tanh_constant = None if tanh_constant is None else check_positive("tanh_constant", tanh_constant)
        super().__init__(model, **kwargs)
        if self.beta_decay:
            raise ValueError(f"beta_decay={self.beta_decay!r}: ENAS has a controller in the place of θ: leave it out")
        self.entropy_weight = check_positive("entropy_weight", entropy_weight, zero=True)

    def configure_architecture(self) -> None:
        """Create the controller in place of θ, initialised from ``seed``."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            self.controller = Controller(
                self.mask, hidden_size=self.hidden_size, temperature=self.temperature, tanh_constant=self.tanh_constant
            )

    @torch.no_grad()
    def draw(self) -> list[int]:
        """Draw a ~ p, edge by edge."""
        return self.controller.draw(1, self.generator)[0].tolist()

    @torch.no_grad()
    def most_probable_choice(self) -> list[int]:
        """The most probable candidate of each edge, given those of the earlier edges."""
        return self.controller.draw(1, None)[0].tolist()

    @torch.no_grad()
    def log_prob(self, choices: Sequence[Sequence[int]]) -> list[float]:
        """The logarithm of the probability p(a) = Π_e p(a_e | a_<e) of each choice."""
        drawn = torch.tensor([list(choice) for choice in choices], device=self.device)  # [N, E]
        log_p: Tensor = self.controller(drawn)  # [N, E, J]
        found: list[float] = log_p.gather(2, drawn.unsqueeze(2)).sum((1, 2)).tolist()
        return found

    @property
    def log_probs(self) -> Tensor:
        """The logarithm of the marginals, ``[E, J]``."""
        return self._conditionals().exp().mean(0).log()

    @property
    def entropy(self) -> Tensor:
        """H(a) / E in nats: by the chain rule this is the mean of the conditionals' entropies."""
        return torch.stack([functional.entropy(conditional) for conditional in self._conditionals()]).mean()

    def architecture_parameters(self) -> list[nn.Parameter]:
        """The architecture parameters: the controller's weights."""
        return list(self.controller.parameters())

    def architecture_gradients(self, trials: Sequence[Trial]) -> list[Tensor]:
        """The gradient (L − b) ∇ log p(a), less that of the entropy bonus, in the controller's weights."""
        (trial,) = trials
        a = trial.architecture.gates  # [E, J]
        with torch.enable_grad():
            log_p = self.controller(a.argmax(-1).unsqueeze(0))[0]  # [E, J]
            log_p_of_draw = log_p.masked_fill(~a.bool(), 0).sum()
            bonus = self.entropy_weight * len(self.space) * functional.entropy(log_p)
            surrogate = self.excess(trial.loss) * log_p_of_draw - bonus
            for term in self.terms:
                surrogate = surrogate + self._expected(log_p, a, self._slope(term, a))
        return list(torch.autograd.grad(surrogate, self.architecture_parameters()))

    def _slope(self, term: Term, a: Tensor) -> Tensor:
        """What each candidate adds to the term with the earlier edges of the draw and no later ones, ``[E, J]``."""
        rows = []
        for edge in range(len(a)):
            slope = term.slope(torch.cat([a[:edge], torch.zeros_like(a[edge:])]))
            assert slope is not None  # a term of θ itself is refused, as there is no θ
            rows.append(slope[edge])
        return torch.stack(rows)

    def _expected(self, log_p: Tensor, a: Tensor, slope: Tensor) -> Tensor:
        """A scalar whose gradient has, over a ~ p, the mean ∇ E[Σ_i ⟨p(·|a_<i), c_i⟩], where c is the ``slope``.

        Given the earlier edges, each edge is taken in closed form. The score function accounts for how those are drawn.
        """
        given_earlier = (log_p.exp() * slope).sum(-1)  # [E]
        chosen = log_p.masked_fill(~a.bool(), 0).sum(-1)  # [E]
        earlier = chosen.cumsum(0) - chosen
        return (given_earlier + given_earlier.detach() * earlier).sum()

    @torch.no_grad()
    def _conditionals(self) -> Tensor:
        """The logarithm of the conditionals of some draws, ``[DRAWS, E, J]``."""
        choices = self.controller.draw(DRAWS, torch.Generator().manual_seed(self.seed))
        log_p: Tensor = self.controller(choices)  # [DRAWS, E, J]
        return log_p
