"""8-bit training: held-out accuracy that is kept against full precision, on a real language-model task.

Both sides have the same model, batches, steps and grid of learning rates; one multiplies all linear maps and experts in
int8, forward and for the gradient of the input, and in bf16 for that of the weight; the other in fp32. Accuracy is the share of held-out tokens that are the first choice, in full
precision on both sides. Such a task does not saturate: no model of this size gets near all of them right. The sides
differ by less than a learning rate or a seed does, so that rates are chosen by the mean of several seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.claims.arms import Compared, compare
from benchmarks.claims.bench import Bench
from benchmarks.claims.claim import Claim, Curve, Figure, Measured
from benchmarks.claims.corpus import corpora
from benchmarks.claims.decoders import decoder
from benchmarks.claims.scale import SAYS, Scale
from benchmarks.claims.spread import Spread
from benchmarks.claims.training import SIZES, TrainingRun, accuracy_of, loss_of
from benchmarks.claims.tuning import TUNING_SEED, grid_text
from benchmarks.report import Row
from model.config import MoEConfig

LEAST_KEPT = 0.99
SATURATED = 0.9  # an accuracy from which on a comparison says little
EIGHT_BIT, FULL = "int8", "fp32"


@dataclass(frozen=True)
class Settings:
    d_model: int
    n_layers: int
    d_ff: int
    d_expert: int
    n_tokens: int
    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    tuning_seeds: tuple[int, ...] = (TUNING_SEED,)


SETTINGS: dict[Scale, Settings] = {
    "quick": Settings(64, 3, 128, 64, 60_000, (4e-3, 1e-2), (1, 2)),
    "full": Settings(96, 4, 256, 96, 400_000, (4e-3, 8e-3), tuple(range(1, 9)), (TUNING_SEED, 100, 200)),
}


def measure(bench: Bench, scale: Scale) -> Measured:
    settings, data = SETTINGS[scale], corpora(bench, scale)
    moe = MoEConfig(settings.d_model, settings.d_expert, n_experts=8, top_k=2, n_shared=1, switch_loss=0.01)
    model = decoder(
        "eight-bit",
        data.vocab_size,
        d_model=settings.d_model,
        n_layers=settings.n_layers,
        d_ff=settings.d_ff,
        moe=moe,
        first_moe_layer=1,
    )
    full = TrainingRun(model.to_dict(), data.key, settings.n_tokens, 0.0, 0, **SIZES[scale])
    arms = {FULL: full, EIGHT_BIT: replace(full, eight_bit="int8")}
    compared = compare(
        bench,
        arms,
        rates=settings.rates,
        seeds=settings.seeds,
        tuning_seeds=settings.tuning_seeds,
        what="eight-bit",
    )
    return Measured(decide(compared, settings, scale), [_figure(compared, settings)])


def decide(compared: Compared, settings: Settings, scale: Scale) -> list[Row]:
    pairs = list(zip(compared.results[EIGHT_BIT], compared.results[FULL], strict=True))
    kept = Spread.of([100 * accuracy_of(mine) / accuracy_of(full) for mine, full in pairs])
    loss = Spread.of([100 * (loss_of(mine) / loss_of(full) - 1) for mine, full in pairs])
    accuracies = {
        name: Spread.of([100 * accuracy_of(result) for result in results])
        for name, results in compared.results.items()
    }
    is_saturated = accuracies[FULL].high >= 100 * SATURATED
    listed = ", ".join(f"{name} {spread.text(2, '%')}" for name, spread in accuracies.items())
    how = (
        f"{'THE TASK SATURATES: nothing is shown; ' if is_saturated else ''}"
        f"held-out next-token accuracy {listed}; kept {kept.text(2, '%')}{_doubt(kept)} (weight gradients in bf16); held-out loss {loss.text(2, '%')}; "
        f"MoE of {pairs[0][0]['parameters'] / 1e6:.2f}M parameters, {settings.n_tokens:,} tokens either side; "
        f"{grid_text(compared.rates, len(settings.tuning_seeds))}; {SAYS[scale]}"
    )
    return [
        Row(
            "8-bit training: held-out accuracy kept",
            round(kept.mean, 2),
            "%",
            f"at least {LEAST_KEPT:.0%}",
            kept.mean >= 100 * LEAST_KEPT and not is_saturated,
            how,
        )
    ]


def _doubt(kept: Spread) -> str:
    """Seeds differ by more than the target leaves: how far the mean may be off."""
    return "" if kept.error is None else f", standard error {kept.error:.2f}"


def _figure(compared: Compared, settings: Settings) -> Figure:
    curves = [
        Curve(
            name, [float(seed) for seed in settings.seeds], [100 * accuracy_of(result) for result in results]
        )
        for name, results in compared.results.items()
    ]
    return Figure("Held-out accuracy in full precision and in 8 bits", "seed", "%", curves)


CLAIM = Claim("eight-bit", "Training in 8 bits keeps 99 % of held-out accuracy", measure)
