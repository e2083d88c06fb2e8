"""I-JEPA's objective: its arithmetic, what learns and what follows, and that it does learn."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from headrace.batch import DeviceBatch
from headrace.models.hjepa import HJepaConfig
from headrace.models.hjepa.masks import MaskSampler
from headrace.models.hjepa.objective import HJepa, frame_seeds

TINY = HJepaConfig(patch_size=4, width=24, depth=2, heads=2, predictor_width=16, predictor_depth=1, predictor_heads=2)


def build(config: HJepaConfig = TINY, size: int = 32) -> HJepa:
    torch.manual_seed(0)
    return config.build(size, size)


def noise(samples: int = 6, frames: int = 1, size: int = 32, start: int = 0) -> DeviceBatch:
    draws = np.random.default_rng(start)
    return DeviceBatch(
        pixels=torch.from_numpy(draws.standard_normal((samples, frames, 3, size, size), dtype=np.float32)),
        seed=draws.integers(0, 2**62, samples),
        label=torch.zeros(samples, dtype=torch.int64),
    )


def part(batch: DeviceBatch, which: slice) -> DeviceBatch:
    return DeviceBatch(batch.pixels[which], batch.seed[which], batch.label[which])


def naive_loss(model: HJepa, batch: DeviceBatch) -> float:
    """The loss of the paper, one image and one target block at a time, without padding or masks."""
    masks = model.masks(frame_seeds(batch.seed, batch.pixels.shape[1]))
    losses = []
    for image, context, targets, real in zip(
        batch.pixels.flatten(0, 1), masks.context, masks.target, masks.is_target, strict=True
    ):
        keep = torch.from_numpy(context)[None]
        truth = F.layer_norm(model.target_encoder(image[None])[0], (24,))
        seen = model.encoder(image[None], keep)
        for block, is_target in zip(targets, real, strict=True):
            places = torch.from_numpy(block[is_target])[None, None]
            guess = model.predictor(seen, keep, places, torch.ones_like(places, dtype=torch.bool))[0, 0]
            losses.append(F.smooth_l1_loss(guess, truth[places[0, 0]]).item())
    return float(np.mean(losses))


def test_loss_is_the_papers() -> None:
    model, batch = build(), noise(frames=2)
    assert not model.masks(frame_seeds(batch.seed, 2)).is_target.all(), "some blocks are padded"
    assert model(batch)[0].item() == pytest.approx(naive_loss(model, batch), rel=1e-5)


def test_loss_of_a_batch_is_the_mean_of_its_parts() -> None:
    model, batch = build(), noise(8)
    whole = model(batch)[0].item()
    for size in (4, 2, 1):
        parts = [model(part(batch, slice(start, start + size)))[0].item() for start in range(0, 8, size)]
        assert whole == pytest.approx(np.mean(parts), rel=1e-5)


def test_gradient_of_a_batch_is_the_mean_of_its_halves() -> None:
    model, batch = build(), noise(8)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def gradients(batch: DeviceBatch) -> torch.Tensor:
        return torch.cat([grad.flatten() for grad in torch.autograd.grad(model(batch)[0], learned)])

    halves = (gradients(part(batch, slice(0, 4))) + gradients(part(batch, slice(4, 8)))) / 2
    torch.testing.assert_close(gradients(batch), halves, atol=1e-6, rtol=1e-4)


def test_frames_have_masks_of_their_own() -> None:
    seeds = frame_seeds(np.array([5, 6]), frames=3)
    assert len(set(seeds.tolist())) == 6
    assert np.array_equal(seeds[3:], frame_seeds(np.array([6]), frames=3))
    assert np.array_equal(seeds[:2], frame_seeds(np.array([5]), frames=2))


def test_only_encoder_and_predictor_learn() -> None:
    model = build()
    model(noise())[0].backward()
    for name, parameter in model.named_parameters():
        follows = name.startswith("target_encoder.")
        assert parameter.requires_grad != follows, name
        assert (parameter.grad is None) == follows, name
        assert follows or parameter.grad.abs().sum() > 0, name


def test_target_encoder_stays_in_evaluation() -> None:
    model = build(TINY.__class__(**{**TINY.__dict__, "drop_path": 0.5}))
    assert model.train().encoder.training
    assert not any(module.training for module in model.target_encoder.modules())
    pixels = noise().pixels
    assert torch.equal(model.features(pixels), model.features(pixels))


def test_moving_average_in_closed_form() -> None:
    """Against a constant encoder, target - encoder shrinks by the product of the momenta."""
    model = build(HJepaConfig(**{**TINY.__dict__, "momentum": (0.9, 1.0)}))
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
    before = copy.deepcopy(model.target_encoder)
    for step in range(10):
        model.after_step(step, steps=10)
    left = float(np.prod([0.9 + 0.1 * step / 10 for step in range(10)]))
    for start, now, encoder in zip(
        before.parameters(), model.target_encoder.parameters(), model.encoder.parameters(), strict=True
    ):
        torch.testing.assert_close(now, encoder + left * (start - encoder), atol=1e-5, rtol=1e-5)
        assert not now.requires_grad


def test_momentum_of_one_moves_nothing() -> None:
    model = build(HJepaConfig(**{**TINY.__dict__, "momentum": (1.0, 1.0)}))
    with torch.no_grad():
        model.encoder.patch_embed.project.weight.add_(1.0)
    before = model.target_encoder.patch_embed.project.weight.clone()
    model.after_step(0, 10)
    assert torch.equal(model.target_encoder.patch_embed.project.weight, before)


def test_collapse_shows_in_the_spread_not_in_the_loss() -> None:
    """Target and prediction constant and alike: the loss is near 0, and so is target_std."""
    model = build()
    healthy = model(noise())[1]
    with torch.no_grad():
        for encoder in (model.encoder, model.target_encoder):
            encoder.blocks.norm.weight.zero_()
            encoder.blocks.norm.bias.copy_(torch.linspace(-1, 1, 24))
        model.predictor.project.weight.zero_()
        model.predictor.project.bias.copy_(F.layer_norm(torch.linspace(-1, 1, 24), (24,)))
    loss, collapsed = model(noise())
    assert loss.item() < 1e-10
    for name, value in collapsed.items():
        assert value.item() < 1e-5 < 1e-3 < healthy[name].item(), name


def explained(model: HJepa, batch: DeviceBatch) -> float:
    with torch.no_grad():
        return model.judge({name: values.double().mean(dim=0) for name, values in model.score(batch).items()})[
            "explained"
        ]


def test_explained_is_the_share_of_the_variance_that_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who knows nothing of an image says of each place the mean over all images, and explains nothing."""
    model, batch = build(), noise(samples=64, frames=2)
    with torch.no_grad():
        truth = F.layer_norm(model.target_encoder(batch.pixels.flatten(0, 1)), (24,))

    def says(values: torch.Tensor) -> None:
        def predict(*seen: torch.Tensor) -> torch.Tensor:
            target = seen[2]
            return values[torch.arange(len(values))[:, None, None], target]

        monkeypatch.setattr(model.predictor, "forward", predict)

    assert explained(model, batch) < 0, "an untrained predictor knows less than the mean"
    says(truth)
    assert explained(model, batch) == pytest.approx(1, abs=1e-5)
    mean = truth.mean(dim=0).expand_as(truth)
    says(mean)
    assert explained(model, batch) == pytest.approx(0, abs=0.05)
    says((truth + mean) / 2)
    assert explained(model, batch) == pytest.approx(0.75, abs=0.02)


def test_an_encoder_that_says_the_same_of_every_image_explains_nothing() -> None:
    model = build()
    with torch.no_grad():
        model.target_encoder.blocks.norm.weight.zero_()
        model.target_encoder.blocks.norm.bias.copy_(torch.linspace(-1, 1, 24))
    assert np.isnan(explained(model, noise()))


def test_metrics_are_detached_scalars() -> None:
    _, metrics = build()(noise())
    assert set(metrics) == {"target_std", "context_std", "prediction_std"}
    assert all(value.ndim == 0 and not value.requires_grad for value in metrics.values())


def test_features_are_the_mean_of_target_tokens() -> None:
    model, pixels = build(), noise(3, frames=4).pixels
    features = model.features(pixels)
    assert features.shape == (3, 24)
    tokens = torch.stack([model.target_encoder(pixels[1, frame : frame + 1])[0] for frame in range(4)])
    torch.testing.assert_close(features[1], tokens.mean(dim=(0, 1)), atol=1e-5, rtol=1e-5)
    assert not features.requires_grad


def test_state_dict_holds_the_target_encoder_and_restores_the_loss() -> None:
    model, other, batch = build(), TINY.build(32, 32), noise()
    model.after_step(0, 10)
    assert any(name.startswith("target_encoder.") for name in model.state_dict())
    other.load_state_dict(model.state_dict())
    assert other(batch)[0].item() == model(batch)[0].item()


def test_learns_a_small_fixed_set() -> None:
    model, batch = build(size=16), noise(16, size=16)
    smooth = F.interpolate(batch.pixels[:, 0, :, :3, :3], size=(16, 16), mode="bicubic")
    batch = DeviceBatch(smooth[:, None], batch.seed, batch.label)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(30):
        loss, _ = model(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        model.after_step(step, steps=30)
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


def test_bfloat16_is_finite_and_near() -> None:
    model, batch = build(), noise()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, metrics = model(batch)
        features = model.features(batch.pixels)
    loss.backward()
    assert loss.dtype == features.dtype == torch.float32
    assert loss.item() == pytest.approx(model(batch)[0].item(), rel=0.02)
    assert all(value.isfinite() for value in metrics.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_networks_compute_the_same(backend: str) -> None:
    config = HJepaConfig(**{**TINY.__dict__, "depth": 1})
    eager, compiled, batch = build(config), build(config), noise()
    for module in compiled.networks():
        module.compile(backend=backend, fullgraph=True)
    losses = [model(batch)[0] for model in (eager, compiled)]
    assert losses[1].item() == pytest.approx(losses[0].item(), rel=1e-5)
    for loss in losses:
        loss.backward()
    for expected, parameter in zip(eager.parameters(), compiled.parameters(), strict=True):
        if expected.requires_grad:
            torch.testing.assert_close(parameter.grad, expected.grad, atol=1e-5, rtol=1e-3)
    assert eager.state_dict().keys() == compiled.state_dict().keys(), "checkpoints fit both"


def test_many_blocks_that_drop_at_rates_of_their_own_are_compiled_once() -> None:
    """Compiled apart, they would exceed what torch.compile allows, and training would end."""
    torch._dynamo.reset()
    model = build(HJepaConfig(**{**TINY.__dict__, "depth": 12, "drop_path": 0.2}))
    for block in model.blocks():
        block.compile(backend="eager", fullgraph=True)
    model(noise())[0].backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        model(noise(start=1))[0].backward()


def test_shapes_never_change_so_nothing_recompiles() -> None:
    torch._dynamo.reset()
    model = build(HJepaConfig(**{**TINY.__dict__, "depth": 1}))
    for module in model.networks():
        module.compile(backend="aot_eager", fullgraph=True)
    model(noise(start=0))[0].backward()
    with torch.compiler.set_stance("fail_on_recompile"):
        for start in range(1, 4):
            model(noise(start=start))[0].backward()


def test_masks_belong_to_the_sampler() -> None:
    assert isinstance(build().masks, MaskSampler)
    assert build(size=16).masks.grid == (4, 4)
