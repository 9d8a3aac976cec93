"""Models: every architecture, where weights come from, norms, freezing, the moving average."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import models
from config import Model
from errors import UserError
from models import (
    build_model,
    find_weights,
    fold_batch_norm,
    freeze_norms,
    freeze_stages,
    load_encoder,
    make_ema,
    parameter_groups,
    update_ema,
)

LITE = "tu-tf_efficientnet_lite0"
ARCHES = ("Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Linknet", "MAnet", "Segformer", "UPerNet")
SMALL = {"weights": "none", "decoder_channels": (16, 16, 8, 8, 8)}


@pytest.fixture(scope="module")
def shipped() -> dict[str, torch.Tensor]:
    (path,) = models._in_package(LITE)
    return torch.load(path, weights_only=True)


@pytest.fixture(scope="module")
def pretrained() -> nn.Module:
    return build_model(Model(decoder_channels=(16, 16, 8, 8, 8)), 3, 1).eval()


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Neither a folder `weights`, nor a package, nor a hub: what was asked, in its order."""
    asked: list[str] = []

    def miss(name: str, cached: bool | None = None) -> list[Path]:
        asked.append({None: "package", True: "cache", False: "hub"}[cached])
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "_in_package", miss)
    monkeypatch.setattr(models, "_in_hub", miss)
    return asked


@pytest.mark.parametrize("arch", ARCHES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_architecture_answers_at_the_images_size(arch: str, channels: int) -> None:
    network = build_model(Model(arch=arch, **SMALL), channels, 5).eval()
    with torch.inference_mode():
        answer = network(torch.randn(2, channels, 64, 64))
    assert answer.shape == (2, 5, 64, 64)
    assert torch.isfinite(answer).all()
    assert answer.std() > 0


def test_an_unknown_encoder_is_named() -> None:
    with pytest.raises(UserError, match="model.encoder 'resnet19'"):
        build_model(Model(encoder="resnet19", weights="none"), 3, 1)


def test_lite0_gets_the_packages_tensors(pretrained: nn.Module, shipped: dict[str, torch.Tensor]) -> None:
    """Every tensor, matched by what it is and not by its place alone: the kinds in the file are in the same order."""
    own = [(k, v) for k, v in pretrained.encoder.state_dict().items() if not k.endswith("num_batches_tracked")]
    theirs = [(k, v) for k, v in shipped.items() if not k.endswith("num_batches_tracked")][: len(own)]
    assert torch.equal(own[0][1], shipped["_conv_stem.weight"])
    for (key, value), (name, tensor) in zip(own, theirs, strict=True):
        assert key.rpartition(".")[2] == name.rpartition(".")[2], f"{key} was given {name}"
        assert torch.equal(value, tensor), key
    random = build_model(Model(**SMALL), 3, 1, with_weights=True)
    assert not torch.equal(random.encoder.state_dict()["model.conv_stem.weight"], shipped["_conv_stem.weight"])


def test_weights_can_be_left_to_a_checkpoint(nowhere: list[str]) -> None:
    build_model(Model(), 3, 1, with_weights=False)
    assert nowhere == []


@pytest.mark.parametrize("channels", [1, 2, 4, 7])
def test_the_first_convolution_is_adapted(channels: int, shipped: dict[str, torch.Tensor]) -> None:
    """An image whose channels are all alike gets the answer it gets in colour."""
    network = build_model(Model(decoder_channels=SMALL["decoder_channels"]), channels, 1)
    weight = network.encoder.state_dict()["model.conv_stem.weight"]
    original = shipped["_conv_stem.weight"]
    assert weight.shape[1] == channels
    if channels != 1:
        np.testing.assert_allclose(weight[:, 0], original[:, 0] * 3 / channels, rtol=1e-6)
    if channels in (1, 3):
        np.testing.assert_allclose(weight.sum(1), original.sum(1), rtol=1e-4, atol=1e-5)


def test_places_are_searched_in_order(nowhere: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = {"package": tmp_path / "p.pth", "cache": tmp_path / "c.safetensors", "hub": tmp_path / "h.safetensors"}
    give = set()
    monkeypatch.setattr(models, "_in_package", lambda name: [found["package"]] if "package" in give else [])

    def hub(name: str, cached: bool) -> list[Path]:
        place = "cache" if cached else "hub"
        return [found[place]] if place in give else []

    monkeypatch.setattr(models, "_in_hub", hub)
    for place in ("hub", "cache", "package"):
        give.add(place)
        assert find_weights(LITE, "auto") == found[place]
    (tmp_path / "weights").mkdir()
    local = tmp_path / "weights" / "tf_efficientnet_lite0.pth"
    local.touch()
    assert find_weights(LITE, "auto").resolve() == local
    (tmp_path / "weights" / "resnet18.pth").touch()
    assert find_weights("resnet18", "auto").name == "resnet18.pth"


def test_a_path_is_a_file_or_a_folder(nowhere: list[str], tmp_path: Path) -> None:
    file = tmp_path / "some" / "tf_efficientnet_lite0.safetensors"
    file.parent.mkdir()
    file.touch()
    assert find_weights(LITE, str(file)) == file
    assert find_weights(LITE, str(file.parent)) == file
    with pytest.raises(UserError, match="no file of encoder 'resnet18' here"):
        find_weights("resnet18", str(file.parent))
    with pytest.raises(UserError, match="absent"):
        find_weights(LITE, str(tmp_path / "absent"))
    assert nowhere == []


@pytest.mark.parametrize("name", [LITE, "resnet18"])
def test_missing_weights_are_an_error_and_never_random(nowhere: list[str], name: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(Model(encoder=name), 3, 1)
    message = str(caught.value)
    for way in ("local file or folder", "package", "cache", "online", "model.weights=none"):
        assert way in message
    assert "\n" not in message
    assert nowhere == ["package", "cache", "hub"]


def test_an_unreachable_hub_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    def fail(*_: object, **__: object) -> str:
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    assert models._in_hub("resnet18", cached=False) == []
    assert models._in_hub("resnet18", cached=True) == []
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: "found.safetensors")
    assert models._in_hub(LITE, cached=True) == [Path("found.safetensors")]


def test_each_lite_comes_in_a_package_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert models._in_package("resnet18") == []
    assert models._in_package(LITE)[0].name.startswith("efficientnet-lite0-")
    assert models._in_package("tu-tf_efficientnet_lite9") == []
    file = tmp_path / "efficientnet_lite9_pytorch_model" / "models" / "efficientnet-lite9-0.pth"
    file.parent.mkdir(parents=True)
    file.touch()
    (file.parent.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert models._in_package("tu-tf_efficientnet_lite9") == [file]


def test_a_safetensors_file_of_the_encoders_own_names_fits(tmp_path: Path) -> None:
    one = build_model(Model(**SMALL), 3, 1)
    state = {key.removeprefix("model."): value for key, value in reversed(one.encoder.state_dict().items())}
    path = tmp_path / "mine.safetensors"
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    other = build_model(Model(**SMALL), 3, 1)
    load_encoder(other.encoder, LITE, str(path), 3)
    for key, value in one.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[key], value)


def test_a_file_of_another_network_is_refused(tmp_path: Path, shipped: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict(), path)
    network = build_model(Model(**SMALL), 3, 1)
    before = copy.deepcopy(network.encoder.state_dict())
    with pytest.raises(UserError, match=r"other\.pth: does not fit the encoder"):
        load_encoder(network.encoder, LITE, str(path), 3)
    torch.save({key: torch.zeros(5) for key in shipped}, path)
    with pytest.raises(UserError, match="does not fit"):
        load_encoder(network.encoder, LITE, str(path), 3)
    assert all(torch.equal(value, before[key]) for key, value in network.encoder.state_dict().items())


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x02garbage" * 10])
def test_a_broken_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=name):
        load_encoder(nn.Conv2d(3, 4, 3), LITE, str(path), 3)


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for content in ([torch.zeros(3)], {"epoch": 3}, {}):
        torch.save(content, path)
        with pytest.raises(UserError, match="no state_dict"):
            load_encoder(nn.Conv2d(3, 4, 3), LITE, str(path), 3)


def test_more_frozen_stages_than_there_are_are_told() -> None:
    with pytest.raises(UserError, match="freeze_encoder_stages: 99, but this encoder has [0-9]+; freeze fewer"):
        build_model(Model(freeze_encoder_stages=99, **SMALL), 3, 1)


@pytest.mark.parametrize("stages", [0, 1, 3, 5])
def test_frozen_stages_get_no_gradient(stages: int) -> None:
    network = build_model(Model(freeze_encoder_stages=stages, **SMALL), 3, 1)
    network(torch.randn(2, 3, 64, 64)).mean().backward()
    inner = network.encoder.model
    parts = [inner.conv_stem, inner.bn1, *inner.blocks]
    for number, part in enumerate(parts):
        frozen = [parameter.grad is None for parameter in part.parameters()]
        assert all(frozen) if number < stages else not any(frozen)
    assert all(parameter.grad is not None for parameter in network.decoder.parameters())
    trained = {id(one) for group in parameter_groups(network, 1e-3, 0.0) for one in group["params"]}
    assert trained == {id(one) for one in network.parameters() if one.requires_grad}


def test_norms_of_frozen_stages_stay_as_they_are() -> None:
    """A batch's own mean would change what frozen weights answer, and its running one what they predict."""
    network = build_model(Model(freeze_encoder_stages=3, **SMALL), 3, 1)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network.train()
    freeze_norms(network, all=False)
    network(torch.randn(2, 3, 64, 64))
    moved = {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}
    frozen = ("encoder.model.conv_stem.", "encoder.model.bn1.", "encoder.model.blocks.0.")
    assert moved
    assert not any(key.startswith(frozen) for key in moved)
    assert any(key.startswith("encoder.model.blocks.1.") for key in moved)


def test_freezing_reaches_into_lists_of_blocks() -> None:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)))
    freeze_stages(encoder, 2)
    assert [one.weight.requires_grad for one in (encoder[0], *encoder[2])] == [False, False, True]


def test_dropout_is_in_training_alone() -> None:
    network = build_model(Model(dropout=0.5, **SMALL), 3, 1)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        network.eval()
        assert torch.equal(network(images), network(images))
    assert any(isinstance(one, nn.Dropout2d) for one in network.modules())


@pytest.mark.parametrize("arch", ARCHES)
def test_folded_norms_give_the_same_answers(arch: str) -> None:
    torch.manual_seed(0)
    network = build_model(Model(arch=arch, **SMALL), 4, 2)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean.normal_(0.0, 0.2)
            norm.running_var.uniform_(0.5, 2.0)
            norm.weight.data.uniform_(0.5, 1.5)
    network.eval()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network, 4)
    images = torch.randn(2, 4, 96, 64)
    with torch.no_grad():
        torch.testing.assert_close(folded(images), network(images), rtol=1e-3, atol=1e-3)
    norms, left = (sum(isinstance(one, nn.BatchNorm2d) for one in model.modules()) for model in (network, folded))
    assert left <= norms // 10
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_an_answer_used_elsewhere_too_is_not_folded() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            answer = self.convolution(images)
            return answer + self.norm(answer)

    network = Residual().eval()
    network.norm.running_mean.fill_(2.0)
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(fold_batch_norm(network, 3)(images), network(images))


def test_the_average_of_weights_follows_the_definition() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    ema = make_ema(network)
    assert not ema.training
    assert not any(one.requires_grad for one in ema.parameters())
    expected = {key: value.double().clone() for key, value in network.state_dict().items()}
    for step in (0, 1, 2, 300):
        with torch.no_grad():
            for one in network.parameters():
                one.add_(torch.randn_like(one))
        network(torch.randn(4, 2, 5, 5))
        decay = min(0.9, (1 + step) / (10 + step))
        update_ema(ema, network, 0.9, step)
        for key, value in network.state_dict().items():
            moved = decay * expected[key] + (1 - decay) * value.double()
            expected[key] = moved if value.dtype.is_floating_point else value.double()
        for key, value in ema.state_dict().items():
            np.testing.assert_allclose(value.double(), expected[key], rtol=1e-5, atol=1e-6, err_msg=f"{key} {step}")
    assert not torch.equal(ema[1].running_mean, torch.zeros(3))
    assert ema[1].num_batches_tracked == 4


def test_the_encoder_has_its_own_rate() -> None:
    network = build_model(Model(**SMALL), 3, 1)
    encoder, rest = parameter_groups(network, 1e-3, 1e-4)
    assert (encoder["lr"], rest["lr"]) == (1e-4, 1e-3)
    assert {id(one) for one in encoder["params"]} == {id(one) for one in network.encoder.parameters()}
    assert len(encoder["params"]) + len(rest["params"]) == len(list(network.parameters()))
    assert [group["lr"] for group in parameter_groups(network, 1e-3, 0.0)] == [1e-3, 1e-3]
    network.encoder.requires_grad_(False)
    (only,) = parameter_groups(network, 1e-3, 1e-4)
    assert only["lr"] == 1e-3
