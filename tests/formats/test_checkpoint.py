"""Our checkpoint folders: what is written comes back; what does not fit is explained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from copo.config import DISCRIMINATOR_PRESETS, PRESETS, VaeConfig
from copo.errors import CopoError
from copo.factors import ARKIT_NAMES, FactorSpec
from copo.formats.checkpoint import Checkpoint, StoredNetwork, load_checkpoint, save_checkpoint
from copo.networks.build import load
from copo.networks.discriminator import Discriminator
from copo.networks.generator import Generator
from copo.networks.vae import Vae

PRIOR = VaeConfig(coefficients=6, latent=3, hidden=8, scales=(2.0,))


def example() -> Checkpoint:
    torch.manual_seed(0)
    tiny, judge = PRESETS["tiny"], DISCRIMINATOR_PRESETS["tiny"]
    networks = {
        "generator": StoredNetwork(tiny, Generator(tiny).state_dict()),
        "discriminator": StoredNetwork(judge, Discriminator(judge).state_dict()),
        "prior_expression": StoredNetwork(PRIOR, Vae(PRIOR).state_dict()),
    }
    factors = FactorSpec("open_head", 4, 3, ARKIT_NAMES[:5], noise=8, normalisers={"shape": 2.0})
    return Checkpoint(networks, factors, {"source": "a test"})


def test_round_trip(tmp_path: Path) -> None:
    written = example()
    save_checkpoint(written, tmp_path / "a" / "b")
    read = load_checkpoint(tmp_path / "a" / "b")
    assert read.factors == written.factors and read.notes == written.notes
    assert list(read.networks) == list(written.networks)
    for name, network in written.networks.items():
        assert read.networks[name].config == network.config
        assert read.networks[name].state.keys() == network.state.keys()
        for key, value in network.state.items():
            assert torch.equal(read.networks[name].state[key], value)
    assert list(load_checkpoint(tmp_path / "a" / "b", ("generator",)).networks) == ["generator"]


def test_loaded_network_computes_the_same(tmp_path: Path) -> None:
    torch.manual_seed(3)
    generator = Generator(PRESETS["tiny"])
    save_checkpoint(Checkpoint({"generator": StoredNetwork(generator.config, generator.state_dict())}), tmp_path)
    stored = load_checkpoint(tmp_path).networks["generator"]
    again = load(PRESETS["tiny"], stored.state)
    z, pose = torch.randn(2, PRESETS["tiny"].latent), torch.full((2, 2), 1.5)
    with torch.no_grad():
        assert torch.equal(again.synthesis(again.mapping(z, pose)), generator.synthesis(generator.mapping(z, pose)))
    assert not again.training and not any(p.requires_grad for p in again.parameters())


def test_half_precision_storage(tmp_path: Path) -> None:
    written = example()
    save_checkpoint(written, tmp_path, torch.float16)
    state = load_checkpoint(tmp_path, ("generator",)).networks["generator"].state
    for key, value in written.networks["generator"].state.items():
        assert torch.equal(state[key], value.half())
    assert sum(v.nbytes for v in state.values()) < (tmp_path / "generator.safetensors").stat().st_size < 60_000
    written.networks["generator"].state["decoder.hidden.bias"][0] = 1e6
    with pytest.raises(CopoError, match=r"decoder.hidden.bias is too large for torch.float16"):
        save_checkpoint(written, tmp_path, torch.float16)


def test_a_failed_write_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path / "c")
    before = {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()}
    broken = example()
    broken.networks["generator"].state["synthesis.const"] *= 1e9
    with pytest.raises(CopoError):
        save_checkpoint(broken, tmp_path / "c", torch.float16)
    assert {p.name: p.read_bytes() for p in (tmp_path / "c").iterdir()} == before
    with pytest.raises(CopoError):
        save_checkpoint(broken, tmp_path / "new", torch.float16)
    assert not (tmp_path / "new").exists()


def test_unwritable_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CopoError, match="cannot write"):
        save_checkpoint(example(), tmp_path / "file" / "folder")


def test_another_configuration_names_the_first_difference(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path)
    state = load_checkpoint(tmp_path).networks["generator"].state
    wider = replace(PRESETS["tiny"], plane_channels=12)
    with pytest.raises(CopoError, match=r"0.to_planes.weight has shape \(24, 16, 1, 1\), expected \(36"):
        load(wider, state)
    del state["decoder.semantic.bias"]
    with pytest.raises(CopoError, match=r"decoder.semantic.bias \(19,\) is missing"):
        load(PRESETS["tiny"], state)
    with pytest.raises(CopoError, match=r"unknown entry more \(2,\)"):
        load(PRESETS["tiny"], example().networks["generator"].state | {"more": torch.zeros(2)})


@pytest.mark.parametrize("length", [0, 4, 100, 5000])
def test_truncated_weights(tmp_path: Path, length: int) -> None:
    save_checkpoint(example(), tmp_path)
    path = tmp_path / "generator.safetensors"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CopoError, match=r"generator.safetensors: truncated or not safetensors") as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(CopoError, match=r"no config.json there"):
        load_checkpoint(tmp_path)
    save_checkpoint(example(), tmp_path)
    with pytest.raises(CopoError, match="holds no prior_identity"):
        load_checkpoint(tmp_path, ("prior_identity",))
    with pytest.raises(CopoError, match="did you mean 'generator'"):
        load_checkpoint(tmp_path, ("generater",))
    (tmp_path / "discriminator.safetensors").unlink()
    with pytest.raises(CopoError, match=r"discriminator.safetensors: no such file"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        (("format",), "other", "not a CoPo checkpoint"),
        (("version",), 99, "version 99, this program reads version 1"),
        (("networks",), [], "not a CoPo checkpoint"),
        (("networks", "generator"), 5, "expected an object of settings"),
        (("networks", "generator", "w_dims"), 5, "did you mean 'w_dim'"),
        (("networks", "generator", "w_dim"), "512", "GeneratorConfig.w_dim = '512' is not a valid value"),
        (("networks", "generator", "w_dim"), True, "is not a valid value"),
        (("networks", "generator", "plane_resolution"), 24, "use a power of two"),
        (("networks", "generator", "resampling"), "cubic", "is not a valid value"),
        (("networks", "generator", "sr_channels"), [8, "8"], "is not a valid value"),
        (("networks", "generator", "sr_channels"), [8, 8, 8], "widths of two blocks"),
        (("networks", "discriminator", "resolution"), 8, "power of two from 16"),
        (("networks", "prior_expression", "scales"), [1.0, 2.0], "give 1 or 6 positive numbers"),
        (("networks", "other"), {}, "unknown network 'other'"),
    ],
)
def test_edited_configuration(tmp_path: Path, path: tuple[str, ...], value: object, complaint: str) -> None:
    save_checkpoint(example(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    place = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CopoError, match=complaint) as caught:
        load_checkpoint(tmp_path)
    assert "\n" not in str(caught.value)


def test_lacking_key_and_broken_json(tmp_path: Path) -> None:
    save_checkpoint(example(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["networks"]["generator"]["box"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CopoError, match="GeneratorConfig lacks the key 'box'"):
        load_checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CopoError, match="not valid JSON"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets_survive_json(name: str) -> None:
    for config in (PRESETS[name], DISCRIMINATOR_PRESETS[name]):
        assert type(config).from_dict(json.loads(json.dumps(config.to_dict()))) == config
