"""Published checkpoints: what is converted, and what is refused with nothing run."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import sys
import tarfile
import tempfile
import types
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.parity import assert_parity, parametrize
from torch import Tensor, nn

from copo.cli.main import main
from copo.errors import CopoError
from copo.formats import official
from copo.formats.checkpoint import load_checkpoint, read_config
from copo.networks.build import load, load_official_generator, load_official_vae

# --- a small generator with official names --------------------------------------------------------------------------


def _conv(state: dict[str, Tensor], name: str, inputs: int, outputs: int, resolution: int, w_dim: int) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs, 3, 3)
    state[f"{name}.noise_strength"] = torch.randn(())
    state[f"{name}.bias"] = torch.randn(outputs)
    state[f"{name}.resample_filter"] = torch.outer(*2 * [torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8])
    state[f"{name}.noise_const"] = torch.randn(resolution, resolution)
    state[f"{name}.affine.weight"] = torch.randn(inputs, w_dim)
    state[f"{name}.affine.bias"] = torch.randn(inputs)


def _to_rgb(state: dict[str, Tensor], name: str, inputs: int, outputs: int, w_dim: int) -> None:
    state[f"{name}.weight"] = torch.randn(outputs, inputs, 1, 1)
    state[f"{name}.bias"] = torch.randn(outputs)
    state[f"{name}.affine.weight"] = torch.randn(inputs, w_dim)
    state[f"{name}.affine.bias"] = torch.randn(inputs)


def official_generator() -> dict[str, Tensor]:
    """w 12, z 379, planes 16 x 16 of 4 channels, channels 16, 12, 6 (min(96 // r, 16)), output 32, 7 classes."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = OrderedDict()
    root, w_dim = "encoder.synthesis", 12
    below = 0
    for resolution, channels in ((4, 16), (8, 12), (16, 6)):
        if resolution == 4:
            state[f"{root}.b4.const"] = torch.randn(channels, 4, 4)
        else:
            _conv(state, f"{root}.b{resolution}.conv0", below, channels, resolution, w_dim)
        _conv(state, f"{root}.b{resolution}.conv1", channels, channels, resolution, w_dim)
        _to_rgb(state, f"{root}.b{resolution}.torgb", channels, 12, w_dim)
        below = channels
    state["encoder.mapping.w_avg"] = torch.randn(w_dim)
    for name, inputs in (("embed", 2), ("fc0", 379 + w_dim), ("fc1", w_dim), ("fc2", w_dim)):
        state[f"encoder.mapping.{name}.weight"] = torch.randn(w_dim, inputs)
        state[f"encoder.mapping.{name}.bias"] = torch.randn(w_dim)
    for name, inputs, outputs in (("base_network.0", 4, 9), ("image_head", 9, 6), ("mask_head", 9, 7)):
        state[f"decoder.{name}.weight"] = torch.randn(outputs, inputs)
        state[f"decoder.{name}.bias"] = torch.randn(outputs)
    for k, (inputs, outputs) in enumerate(((5, 10), (10, 8))):
        _conv(state, f"sr.block{k}.conv0", inputs, outputs, 16 << k, w_dim)
        _conv(state, f"sr.block{k}.conv1", outputs, outputs, 16 << k, w_dim)
        if k == 1:
            _to_rgb(state, "sr.block1.torgb", 8, 3, w_dim)
        state[f"sr.block{k}.skip.weight"] = torch.randn(outputs, inputs, 1, 1)
    return state


BUFFERS = ("resample_filter", "noise_const", "w_avg")


def parameter_names(state: dict[str, Tensor]) -> list[str]:
    return [key for key in state if not key.endswith(BUFFERS)]


def test_configuration_comes_from_the_shapes() -> None:
    config = official.infer_generator_config(official_generator())
    assert config.channels(4) == 16 and config.channels(8) == 12 and config.channels(16) == 6
    assert (config.w_dim, config.mapping_layers, config.plane_resolution, config.plane_channels) == (12, 3, 16, 4)
    assert (config.decoder_hidden, config.feature_channels, config.class_count) == (9, 5, 7)
    assert (config.output_resolution, config.raw_resolution, config.sr_channels) == (32, 8, (10, 8))
    assert (config.noise, config.shape, config.albedo, config.expression, config.illumination) == (128, 80, 80, 64, 27)
    assert config.resampling == "fir" and config.pixel_grid == "corners" and not config.background_channels


@given(base=st.integers(64, 70000), most=st.integers(1, 600), levels=st.integers(2, 7))
def test_channel_rule_is_found(base: int, most: int, levels: int) -> None:
    """Whatever base and maximum made the channels, the ones inferred make the same."""
    channels = {4 << k: min(base // (4 << k), most) for k in range(levels)}
    if min(channels.values()) > 0:
        found_base, found_most = official._channel_rule(channels, "generator")
        assert {r: min(found_base // r, found_most) for r in channels} == channels


def test_channels_without_a_rule_are_refused() -> None:
    with pytest.raises(CopoError, match="do not follow"):
        official._channel_rule({4: 16, 8: 3, 16: 8}, "generator")


def test_every_weight_arrives() -> None:
    """Names of another scheme, but the same numbers: each official parameter is found once in ours."""
    state = official_generator()
    ours = load_official_generator(state).state_dict()
    kept = {key: value for key, value in state.items() if not key.endswith("resample_filter")}
    assert len(ours) == len(kept)
    remaining = [value for value in ours.values()]
    for key, value in kept.items():
        match = next((i for i, v in enumerate(remaining) if v.shape == value.shape and torch.equal(v, value)), None)
        assert match is not None, key
        remaining.pop(match)


def test_data_parallel_prefix_is_dropped(tmp_path: Path) -> None:
    state = official_generator()
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "g.pth")
    assert list(official.read_state(tmp_path / "g.pth")) == list(state)


@pytest.mark.parametrize(
    ("key", "replacement", "complaint"),
    [
        ("encoder.synthesis.b8.conv0.weight", None, "made for another configuration: synthesis.blocks.1.conv0.weight"),
        ("encoder.mapping.embed.weight", None, "lacks 'encoder.mapping.embed.weight'"),
        ("encoder.synthesis.b8.torgb.bias", torch.zeros(9), r"has shape \(9,\), expected \(12,\)"),
        ("decoder.extra.weight", torch.zeros(3), "unknown entry 'decoder.extra.weight'"),
        ("decoder.mask_head.weight", torch.zeros(3), "expected 2 dimensions"),
    ],
)
def test_wrong_state_dicts_are_explained(key: str, replacement: Tensor | None, complaint: str) -> None:
    state = official_generator()
    if replacement is None:
        del state[key]
    else:
        state[key] = replacement
    with pytest.raises(CopoError, match=complaint) as caught:
        load_official_generator(state)
    assert "\n" not in str(caught.value)


def test_another_filter_is_pointed_out() -> None:
    state = official_generator()
    state["sr.block0.conv0.resample_filter"] = torch.full((4, 4), 1 / 16)
    with pytest.warns(UserWarning, match="not the published filter"):
        load_official_generator(state)


# --- averaged weights ------------------------------------------------------------------------------------------------


def ema_state(shadow: list[Tensor]) -> dict[str, object]:
    return {"decay": 0.999, "num_updates": 7, "shadow_params": shadow, "collected_params": None}


def test_ema_replaces_parameters_in_order(tmp_path: Path) -> None:
    state = official_generator()
    names = parameter_names(state)
    torch.save(ema_state([torch.full_like(state[name], float(i)) for i, name in enumerate(names)]), tmp_path / "e.pth")
    averaged = official.apply_ema(state, official.read_ema(tmp_path / "e.pth"))
    assert list(averaged) == list(state)
    for i, name in enumerate(names):
        assert (averaged[name] == i).all()
    assert torch.equal(averaged["encoder.mapping.w_avg"], state["encoder.mapping.w_avg"])


def test_parameter_order_is_that_of_a_module() -> None:
    """The rule "state dict without buffers" is PyTorch's order of `parameters()`."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2))
            self.register_buffer("noise_const", torch.randn(3))
            self.affine = nn.Linear(2, 2)
            self.bias = nn.Parameter(torch.randn(4))

    module = nn.Sequential(Layer(), Layer())
    names = [name for name, _ in module.named_parameters()]
    assert names == parameter_names(dict(module.state_dict()))


@pytest.mark.parametrize("change", ["one less", "another shape", "swapped"])
def test_ema_of_another_network_is_refused(change: str) -> None:
    state = official_generator()
    shadow = [state[name].clone() for name in parameter_names(state)]
    if change == "one less":
        shadow.pop()
        complaint = f"it has {len(shadow)} tensors, the generator has {len(shadow) + 1} parameters"
    elif change == "another shape":
        shadow[0] = torch.zeros(16, 4, 5)
        complaint = r"encoder.synthesis.b4.const has shape \(16, 4, 5\), expected \(16, 4, 4\)"
    else:
        shadow[0], shadow[1] = shadow[1], shadow[0]
        complaint = "encoder.synthesis.b4.const has shape"
    with pytest.raises(CopoError, match=complaint):
        official.apply_ema(state, shadow)


# --- pickled priors --------------------------------------------------------------------------------------------------


@pytest.fixture
def vae_module() -> Iterator[type[nn.Module]]:
    """The authors' module path, with a class that has their attribute names; it is gone when the test converts."""

    class VAE(nn.Module):
        def __init__(self, coefficients: int, hidden: int, latent: int) -> None:
            super().__init__()
            self.latent_dim = latent
            self.hidden_dims = [hidden] * 3

            def block(a: int, b: int, slope: float) -> nn.Sequential:
                return nn.Sequential(nn.Linear(a, b), nn.BatchNorm1d(b), nn.LeakyReLU(slope))

            self.encoder = nn.Sequential(*(block(n, hidden, 0.01) for n in (coefficients, hidden, hidden)))
            self.fc_mu = nn.Linear(hidden, latent)
            self.fc_var = nn.Linear(hidden, latent)
            self.decoder = nn.Sequential(*(block(n, hidden, 0.2) for n in (latent, hidden, hidden)))
            self.final_layer = nn.Linear(hidden, coefficients)

        def __setstate__(self, state: object) -> None:
            raise AssertionError("the authors' code must not be needed, nor run")

    VAE.__module__, VAE.__qualname__ = "vaes.vaes", "VAE"
    package, module = types.ModuleType("vaes"), types.ModuleType("vaes.vaes")
    module.VAE = VAE  # type: ignore[attr-defined]
    sys.modules.update({"vaes": package, "vaes.vaes": module})
    yield VAE
    sys.modules.pop("vaes", None)
    sys.modules.pop("vaes.vaes", None)


def forget_vaes() -> None:
    del sys.modules["vaes"], sys.modules["vaes.vaes"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_pickled_vae_is_rebuilt_without_its_code(tmp_path: Path, vae_module: type[nn.Module], zipped: bool) -> None:
    torch.manual_seed(1)
    vae = vae_module(20, 24, 6)
    for layer in vae.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.running_mean = torch.randn(24)
            layer.running_var = torch.rand(24) + 0.5
    vae.eval()
    z, coefficients = torch.randn(5, 6), torch.randn(5, 20)
    with torch.no_grad():
        decoded = vae.final_layer(vae.decoder(z))
        mean = vae.fc_mu(vae.encoder(coefficients))
    torch.save(vae, tmp_path / "vae.pth")
    expected = dict(vae.state_dict())
    forget_vaes()

    state = official.read_vae_state(tmp_path / "vae.pth")
    assert list(state) == list(expected)
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    ours = load_official_vae(state, "expression")
    assert (ours.config.coefficients, ours.config.hidden, ours.config.latent) == (20, 24, 6)
    with torch.no_grad():
        assert torch.equal(ours.decode(z), decoded)
        assert torch.equal(ours.encode(coefficients)[0], mean)
        assert torch.allclose(ours.sample(z), decoded * 4.0)
    assert "vaes" not in sys.modules


def test_state_dict_of_a_prior_in_either_format(tmp_path: Path, vae_module: type[nn.Module]) -> None:
    vae = vae_module(5, 4, 3)
    for zipped in (True, False):
        torch.save(vae.state_dict(), tmp_path / "vae.pth", _use_new_zipfile_serialization=zipped)
        state = official.read_vae_state(tmp_path / "vae.pth")
        assert torch.equal(state["fc_mu.weight"], vae.fc_mu.weight) and list(state) == list(vae.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old format looks for the class's source
        torch.save(vae, tmp_path / "vae.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CopoError, match=r"format of before PyTorch 1.6; save its state_dict"):
        official.read_vae_state(tmp_path / "vae.pth")


# --- hostile files ---------------------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: Callable[..., object], *arguments: object, state: object = None) -> None:
        self.function, self.arguments, self.state = function, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        if self.state is not None:
            return self.function, self.arguments, self.state
        return self.function, self.arguments


def _touch(canary: Path) -> str:
    return f"__import__('pathlib').Path({str(canary)!r}).touch()"


def attacks(canary: Path) -> dict[str, object]:
    """Objects whose unpickling by Python's own `pickle` would make the canary file."""
    command = f"touch {canary}"
    module = nn.Linear(2, 2)
    module.register_parameter("weight", None)
    module.__dict__["_buffers"] = {"weight": Call(os.system, command)}
    return {
        "os.system": Call(os.system, command),
        "eval": Call(eval, _touch(canary)),
        "exec": Call(exec, _touch(canary)),
        "getattr chain": Call(Call(getattr, os, "system").function, Call(__import__, "os"), "system"),
        "getattr result called": Call(map, Call(getattr, Call(__import__, "os"), "system"), [command]),
        "partial": Call(functools.partial, os.system, command),
        "state of a module": module,
        "hook of a module": _hooked(command),
        "in a tensor's storage": Call(
            torch._utils._rebuild_tensor_v2, Call(os.system, command), 0, (1,), (1,), False, {}
        ),
        "in a tensor's hooks": Call(
            torch._utils._rebuild_tensor_v2,
            torch.zeros(1),
            0,
            (1,),
            (1,),
            False,
            OrderedDict(a=Call(os.system, command)),
        ),
        "in a parameter": Call(torch._utils._rebuild_parameter, Call(os.system, command), True, OrderedDict()),
        "tensor from numpy": Call(
            torch._utils._rebuild_device_tensor_from_numpy, Call(os.system, command), 0, 0, False
        ),
        "import and call": Call(torch._utils._import_dotted_name, "os.system"),
        "torch.load": Call(torch.load, str(canary)),
        "numpy.load": Call(np.load, str(canary), None, True),
        "numpy array of objects": np.array([Call(os.system, command)], dtype=object),
        "numpy frombuffer": Call(np.frombuffer, b"12345678"),
        "numpy memmap": Call(np.memmap, str(canary), "uint8", "w+", 0, (1,)),
        "open": Call(open, str(canary), "w"),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.system, command))),
        "sys.exit": Call(sys.exit, 3),
        "key": {Call(os.system, command): torch.zeros(1)},
        "ordered dict": OrderedDict(a=Call(os.system, command)),
    }


def _hooked(command: str) -> nn.Module:
    module = nn.Linear(2, 2)
    module.__dict__["_forward_hooks"] = OrderedDict(a=Call(os.system, command))
    return module


READERS: dict[str, Callable[[Path], object]] = {
    "generator": official.read_state,
    "ema": official.read_ema,
    "vae": official.read_vae_state,
}


@pytest.mark.parametrize("name", sorted(attacks(Path("x"))))
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_code_is_refused_and_not_run(tmp_path: Path, name: str, zipped: bool) -> None:
    canary = tmp_path / "canary"
    path = tmp_path / "hostile.pth"
    for wrap in (lambda x: x, lambda x: {"shadow_params": [x], "weight": torch.zeros(2)}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save(wrap(attacks(canary)[name]), path, _use_new_zipfile_serialization=zipped)
        for read in READERS.values():
            with pytest.raises(CopoError) as caught:
                read(path)
            assert "\n" not in str(caught.value)
            assert not canary.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """Python's own pickle runs them: the test above would notice."""
    canary = tmp_path / "canary"
    for name in ("os.system", "eval", "exec", "open", "in a tensor's storage", "key", "numpy memmap"):
        data = pickle.dumps(attacks(canary)[name])
        with contextlib.suppress(TypeError, AttributeError):  # what comes after the call may fail
            pickle.loads(data)
        assert canary.exists(), name
        canary.unlink()


def test_hostile_data_files_inside_the_zip(tmp_path: Path) -> None:
    """The pickle of a zip checkpoint replaced by a hand-written one."""
    canary = tmp_path / "canary"
    good, bad = tmp_path / "good.pth", tmp_path / "bad.pth"
    torch.save({"a": torch.zeros(3)}, good)
    for protocol in (0, 2, 4):
        with zipfile.ZipFile(good) as source, zipfile.ZipFile(bad, "w") as target:
            for item in source.namelist():
                data = source.read(item)
                if item.endswith("data.pkl"):
                    data = pickle.dumps(Call(os.system, f"touch {canary}"), protocol=protocol)
                target.writestr(item, data)
        for read in READERS.values():
            with pytest.raises(CopoError, match="refused"):
                read(bad)
        assert not canary.exists()


def test_plain_pickles_tars_and_scripts_are_refused(tmp_path: Path) -> None:
    """Formats that torch.load has understood in the past, each with something to run."""
    canary = tmp_path / "canary"
    hostile = pickle.dumps(Call(os.system, f"touch {canary}"), protocol=2)
    plain, tar, script = (tmp_path / name for name in ("plain.pkl", "old.tar", "script.pt"))
    plain.write_bytes(hostile)
    with tarfile.open(tar, "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = len(hostile)
            archive.addfile(info, io.BytesIO(hostile))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)), script)
    for path in (plain, tar, script):
        for read in READERS.values():
            with pytest.raises(CopoError, match="refused"):
                read(path)
    assert not canary.exists()


def test_an_environment_variable_does_not_open_the_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    torch.save(Call(os.system, f"touch {canary}"), tmp_path / "hostile.pth")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    with pytest.raises(CopoError, match="refused"):
        official.read_vae_state(tmp_path / "hostile.pth")
    assert not canary.exists()


def test_stand_ins_are_not_left_allowed(tmp_path: Path, vae_module: type[nn.Module]) -> None:
    """A generator file may not hold modules, also after a prior was read."""
    torch.save(vae_module(4, 4, 2), tmp_path / "vae.pth")
    forget_vaes()
    official.read_vae_state(tmp_path / "vae.pth")
    with pytest.raises(CopoError, match="refused"):
        official.read_state(tmp_path / "vae.pth")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (torch.zeros(3), "expected a state dict"),
        ({}, "expected a state dict"),
        ({"a": [1, 2]}, "entry 'a' is list, expected a tensor"),
        ({1: torch.zeros(1)}, "entry 1 is Tensor"),
    ],
)
def test_other_contents(tmp_path: Path, content: object, complaint: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CopoError, match=complaint):
        official.read_state(tmp_path / "x.pth")
    with pytest.raises(CopoError, match="no list of tensors 'shadow_params'"):
        official.read_ema(tmp_path / "x.pth")


def test_missing_and_truncated_files(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match="no such file"):
        official.read_state(tmp_path / "none.pth")
    torch.save(official_generator(), tmp_path / "g.pth")
    data = (tmp_path / "g.pth").read_bytes()
    for length in (0, 3, 100, len(data) // 2, len(data) - 10):
        (tmp_path / "g.pth").write_bytes(data[:length])
        with pytest.raises(CopoError, match="refused: damaged"):
            official.read_state(tmp_path / "g.pth")


# --- the command -----------------------------------------------------------------------------------------------------


def test_convert(tmp_path: Path, vae_module: type[nn.Module], capsys: pytest.CaptureFixture[str]) -> None:
    state = official_generator()
    shadow = [state[name] + 1 for name in parameter_names(state)]
    torch.save(state, tmp_path / "generator.pth")
    torch.save(ema_state(shadow), tmp_path / "ema.pth")
    for name, sizes in (("id", (160, 12, 8)), ("exp", (64, 12, 6)), ("gamma", (27, 12, 4))):
        torch.save(vae_module(*sizes), tmp_path / f"vae_{name}.pth")
    forget_vaes()
    out = tmp_path / "models" / "published"
    words = ["convert", "--generator", str(tmp_path / "generator.pth"), "--ema", str(tmp_path / "ema.pth")]
    for name in ("id", "exp", "gamma"):
        words += [f"--vae-{name}", str(tmp_path / f"vae_{name}.pth")]
    main([*words, "--out", str(out)])
    assert "generator" in capsys.readouterr().out
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json", "generator.safetensors", "prior_expression.safetensors", "prior_identity.safetensors",
        "prior_illumination.safetensors",
    ]  # fmt: skip
    checkpoint = load_checkpoint(out)
    assert checkpoint.factors is not None and checkpoint.factors.total == 379 and checkpoint.notes["weights"] == "ema"
    generator = load(checkpoint.networks["generator"].config, checkpoint.networks["generator"].state)
    expected = load_official_generator(state, shadow)
    for key, value in expected.state_dict().items():
        assert torch.equal(generator.state_dict()[key], value), key

    main([*words, "--out", str(tmp_path / "half"), "--half"])
    small = load_checkpoint(tmp_path / "half").networks["generator"].state
    assert all(value.dtype == torch.float16 for value in small.values())


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(["convert", *words])
    assert stop.value.code == 2
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_convert_refuses_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = official_generator()
    generator, hostile, out = tmp_path / "generator.pth", tmp_path / "hostile.pth", tmp_path / "out"
    torch.save(state, generator)
    torch.save(Call(os.system, f"touch {tmp_path / 'canary'}"), hostile)
    to = ["--out", str(out)]
    assert "no such file" in fails(capsys, "--generator", str(tmp_path / "nothing.pth"), *to)
    assert "posix.system, which is not allowed" in fails(capsys, "--generator", str(hostile), *to)
    assert "EMA state" in fails(capsys, "--generator", str(generator), "--ema", str(generator), *to)
    assert "identity prior" in fails(capsys, "--generator", str(generator), "--vae-id", str(hostile), *to)
    assert "raw_resolution 24" in fails(capsys, "--generator", str(generator), "--raw-resolution", "24", *to)
    assert not out.exists() and not (tmp_path / "canary").exists()


@parametrize("generator")
@torch.no_grad()
def test_recorded_variants_through_the_command(recording: object, tmp_path: Path) -> None:
    """The authors' files as they would be saved, converted by the command, loaded from our folder."""
    from tests.parity import Recording

    assert isinstance(recording, Recording)
    state = recording.state("generator", "stylegan")
    torch.save(OrderedDict(state), tmp_path / "generator.pth")
    shadow = [state[name] for name in parameter_names(state)]
    torch.save(ema_state(shadow), tmp_path / "ema.pth")
    raw = recording.arrays["sr_in"].shape[-1]
    main([
        "convert", "--generator", str(tmp_path / "generator.pth"), "--ema", str(tmp_path / "ema.pth"),
        "--raw-resolution", str(raw), "--out", str(tmp_path / "out"),
    ])  # fmt: skip
    stored = load_checkpoint(tmp_path / "out").networks["generator"]
    generator = load(stored.config, stored.state)  # type: ignore[arg-type]
    ws = generator.mapping(recording.tensor("latent")[:1], torch.full((1, 2), torch.pi / 2), 0.7)
    assert_parity(ws, recording.tensor("ws"), "ws")
    planes = generator.synthesis(ws).flatten(1, 2)
    assert_parity(planes[0, ::8, ::4, ::4], recording.tensor("triplane_slice"), "triplane_slice")
    assert json.dumps(read_config(tmp_path / "out"))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damaged_pickles_never_surprise(data: st.DataObject) -> None:
    """Any bytes of the pickle changed: a state dict comes out, or one clear line."""
    buffer = io.BytesIO()
    torch.save({"shadow_params": torch.zeros(2, 3), "weight": torch.ones(4)}, buffer)
    with zipfile.ZipFile(buffer) as source, tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.pth"
        with zipfile.ZipFile(path, "w") as target:
            for item in source.namelist():
                content = bytearray(source.read(item))
                if item.endswith("data.pkl"):
                    for _ in range(data.draw(st.integers(1, 4))):
                        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
                target.writestr(item, bytes(content))
        for read in READERS.values():
            try:
                read(path)
            except CopoError as error:
                assert "\n" not in str(error)
