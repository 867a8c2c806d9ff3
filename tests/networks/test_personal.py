from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.inversion.samples import generator, photographs, spec

from copo.camera import Camera
from copo.errors import CopoError
from copo.factors import Factors
from copo.field.portrait_field import PortraitField
from copo.formats.checkpoint import fingerprint
from copo.formats.portrait_file import PortraitFile, WeightDelta
from copo.networks.generator import Generator
from copo.networks.personal import fold_offsets, personal, readers, tunable


def pictures(network: Generator, factors: Factors, psi: float = 1.0) -> torch.Tensor:
    field = PortraitField(network)
    with torch.no_grad():
        return field.render(field.planes(factors.to_vector(), psi=psi), Camera.from_degrees(10)).image


def file_for(network: Generator, **changes: object) -> PortraitFile:
    photos = photographs()
    made = PortraitFile(photos.factors, photos.camera, fingerprint(network.state_dict()))
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("styled", [False, True])
def test_folded_offsets_are_offsets_of_the_latents(styled: bool) -> None:
    import copy

    network = generator(3, styled)
    config = network.config
    ws, behind = torch.randn(config.ws_count, config.w_dim), torch.randn(config.background_w_dim)
    folded, hooked = copy.deepcopy(network), copy.deepcopy(network)
    fold_offsets(folded, ws, behind)
    hooked.mapping.register_forward_hook(lambda _m, _i, out: out + ws)
    assert hooked.background_branch is not None
    hooked.background_branch.mapping.register_forward_hook(lambda _m, _i, out: out + behind)
    people = Factors.random(spec(), [1])
    assert torch.allclose(pictures(folded, people), pictures(hooked, people), atol=1e-5)
    assert not torch.allclose(pictures(folded, people), pictures(network, people), atol=1e-2)


def test_every_layer_that_reads_latents_is_known() -> None:
    network = generator(3, True)
    assert {index for index, _ in readers(network)} == set(range(network.config.ws_count))
    affines = {id(m) for name, m in network.named_modules() if name.endswith("affine") and "background" not in name}
    assert {id(layer.affine) for _, layer in readers(network)} == affines


def test_truncation_leaves_the_person_alone_and_tames_edits() -> None:
    network = generator()
    offset = torch.randn(network.config.ws_count, network.config.w_dim)
    made = personal(network, file_for(network, ws_offset=offset))
    person = photographs().factors
    whole = pictures(made, person)
    assert torch.allclose(pictures(made, person, psi=0.2), whole, atol=1e-5)
    edited = person.replace(shape=person.shape + 2)
    full = (pictures(made, edited) - whole).abs().mean()
    tamed = (pictures(made, edited, psi=0.5) - whole).abs().mean()
    assert 0 < tamed < full


def test_a_personal_generator_leaves_the_original_as_it_was() -> None:
    network = generator()
    before = fingerprint(network.state_dict())
    name = "decoder.picture.bias"
    made = personal(network, file_for(network, weights={name: WeightDelta(torch.ones(9))}))
    assert fingerprint(network.state_dict()) == before
    assert torch.equal(dict(made.named_parameters())[name], dict(network.named_parameters())[name] + 1)


def test_files_of_other_models_and_with_other_weights_are_refused() -> None:
    network = generator()
    with pytest.raises(CopoError, match=r"me.safetensors belongs to another model"):
        personal(generator(1), file_for(network), "me.safetensors")
    with pytest.raises(CopoError, match=r"no weight 'decoder.nose'"):
        personal(network, file_for(network, weights={"decoder.nose": WeightDelta(torch.ones(2))}))
    with pytest.raises(CopoError, match="2 numbers for a weight of 9"):
        personal(network, file_for(network, weights={"decoder.picture.bias": WeightDelta(torch.ones(2))}))
    with pytest.raises(CopoError, match=r"ws offset has shape \(1, 2\)"):
        personal(network, file_for(network, ws_offset=torch.ones(1, 2)))


def test_mapping_networks_are_not_tuned() -> None:
    names = set(tunable(generator()))
    assert "synthesis.blocks.0.conv1.weight" in names and "decoder.hidden.weight" in names
    assert not [n for n in names if "mapping" in n or "affine" in n]
    assert "background_branch.blocks.0.weight" in names
