"""The whole configuration as one frozen schema: every key, its default and what its values may be."""

from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

IGNORE_INDEX = 255  # the label of a pixel nobody knows; every loss and metric leaves it out

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(ge=1)]
Zoom = Annotated[float, Field(ge=0.01, le=100.0)]
Colour = tuple[int, int, int]
Pool = Annotated[tuple[Literal["labelled", "unlabelled", "test"], ...], AfterValidator(lambda s: (*dict.fromkeys(s),))]
MaskMetric = Literal["dice", "dice_global", "f0.5", "miou", "accuracy", "mask_map", "boundary_f", "surface_dice"]
TASK_METRICS: dict[str, tuple[str, ...]] = {  # the scores that fit a task; rules.py says how each is made
    "binary": (*get_args(MaskMetric), "patch_f1"),
    "multilabel": get_args(MaskMetric),
    "multiclass": ("miou", "dice_global", "accuracy", "macro_accuracy"),
    "instances": ("map", "f2", "dice", "dice_global", "miou"),
}


class Section(BaseModel):
    """A part of the schema: frozen, and a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class TableFormat(Section):
    """What a competition's CSV or JSON looks like; `columns` maps each header, in order, to the field it holds."""

    # several id columns are joined by "_"; class holds the class's name, class_number its number (see tables.py)
    columns: dict[str, Literal["id", "class", "class_number", "score", "rle", "height", "width"]]
    file: Literal["csv", "coco", "polygons"] = "csv"  # coco: results or annotations; polygons: a JSON line an image
    # detections: all of an image's instances in the rle's cell; patch: a row a square of the image, 0 or 1
    rows: Literal["image", "image_class", "instance", "detections", "patch"] = "image"
    codec: Literal["start_length", "start_length_value", "count_value", "coco_counts", "coco_zlib_b64"] = "start_length"
    order: Literal["F", "C"] = "F"
    base: Literal[0, 1] = 1
    relative: bool = False
    empty: str = ""
    id: str = "{id}"  # how the id column is written: "{id}.jpg", "{id}.jpg_{class}" or "{id}.jpg_{class_number}"
    overlap: Literal["allow", "forbid"] = "allow"
    size: tuple[int, int] | None = None  # (height, width) of the submitted mask; None: the image's own
    cell: tuple[Literal["class", "class_number", "score", "rle"], ...] = ("class", "score", "rle")  # of a detection
    class_base: Literal[0, 1] = 1  # class_number of the first class
    classes: tuple[str, ...] = ()  # where the competition fixes them
    patch: Positive = 16  # pixels along a side
    patch_share: Share = 0.25  # a patch is 1 where more of it is foreground


class ArchiveFormat(Section):
    """What a competition's files of masks look like: one image a file, in a folder or a zip."""

    name: str = "{id}.png"  # of a file; its ending says PNG or TIFF
    image: str = ""  # of the image it belongs to, where that is named otherwise: "{id}_sat.jpg"
    container: Literal["folder", "zip"] = "folder"
    encoding: Literal["index", "palette", "rgb_id"] = "index"  # as in Labels
    values: dict[str, int] = {}
    palette: dict[str, Colour] = {}
    ignore: tuple[int | Colour, ...] = ()
    size: tuple[int, int] | None = None  # (height, width)


class DrawnPoints(Section):
    """Points of dense masks, drawn once by prepare.py; training sees nothing else. Give count, density or per_class."""

    count: Positive | None = None  # points an image
    density: Annotated[float, Field(gt=0.0, le=1.0)] | None = None  # the share of an image's pixels
    per_class: Positive | None = None  # points of each class that an image shows
    grid: Literal["own", "working"] = "own"  # drawn among the image's own pixels, or among those of its working scale
    judge: Literal["points", "masks"] = "points"  # what held-out images choose by; both are scored


class Labels(Section):
    """Where the labels lie and how they are written."""

    kind: Literal["masks", "rle", "points", "none"] = "none"
    path: str = ""  # template of the mask files ("{tile}/masks/{part}.png") or the table's path ("train.csv")
    match: Literal["fields", "number"] = "fields"  # mask ↔ image by the same fields; or stem, else last number in it
    encoding: Literal["index", "binary", "otsu", "palette", "rgb_id", "instances"] = "index"
    palette: dict[str, Colour] = {}  # class name → colour
    values: dict[str, int] = {}  # class name → grey value; empty: value i is class i
    ignore: tuple[int | Colour, ...] = ()  # grey values or colours that mean "unknown"
    # of a table: a name in competitions.py or the format itself; of mask files: a name that says all but the path
    format: str | TableFormat = "image"
    without_label: Literal["error", "unlabelled", "test", "empty"] = "error"  # empty: such an image shows nothing
    keep: Positive | None = None  # keep this many labelled images (seeded, stratified); the others count as unlabelled
    keep_test: Positive | None = None  # of those others, so many become test images
    keep_unlabelled: Annotated[int, Field(ge=0)] | None = None  # and so many unlabelled ones; the rest is left out
    points: DrawnPoints | None = None  # masks, rle: learn from points of them alone

    @property
    def sparse(self) -> bool:
        return self.kind == "points" or self.points is not None


class Data(Section):
    """The data as it came. Templates name their parts: `{tile}/images/{part}.jpg`; `*` matches anything but `/`."""

    root: str = ""  # the folder with the data, relative to the project's top; empty: data/<name>/raw
    # where a missing root is downloaded from, and where submissions go: competitions/NAME or datasets/OWNER/NAME
    kaggle: Annotated[str, Field(pattern=r"^(competitions/[\w-]+|datasets/[\w-]+/[\w-]+)?$")] = ""
    generator: Literal["none", "scenes", "microct"] = "none"  # write a competition here when it is missing
    size: Annotated[int, Field(ge=16)] | None = None  # the side of the generator's images; None: its own choice
    images: str = "train/{id}.png"
    unlabelled: str = ""
    test: str = ""
    id: str = "{id}"  # an image's id, made of the template's fields
    group: str = ""  # likewise; empty: no groups
    labels: Labels = Labels()
    sample_submission: str = ""
    solution: str = ""  # a label table (or mask template) of hidden labels: only ever used to report a score
    solution_of: Literal["test", "unlabelled"] = "test"


class Image(Section):
    """How an image reaches the network."""

    channels: Positive = 3
    scale: Zoom = 1.0  # the working scale: above 1 enlarges, for small or touching objects
    long_side: Positive | None = None  # and the most its long side may then have
    normalise: Literal["fixed", "image"] = "fixed"  # by mean and std below, on the scale [0, 1]; or by each image's own
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)  # what EfficientNet-Lite was trained with
    std: tuple[Annotated[float, Field(gt=0.0)], ...] = (0.5, 0.5, 0.5)


class Folds(Section):
    count: Positive = 5
    validation: Positive | None = None  # of a single fold: how many images it holds out; all others are trained on
    stratify: bool = True
    group: bool = True  # keep a group's images in one fold, where the data has groups


class Model(Section):
    arch: Literal[
        "Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "Linknet", "MAnet", "Segformer", "UPerNet", "PlainUnet"
    ] = "Unet"
    encoder: str = "tu-tf_efficientnet_lite0"
    weights: str = "auto"  # a package on this machine, the hub's cache or the hub; a file or folder; "none": random
    # a PlainUnet's own widths, from the bottom up: it halves the side at each but one
    decoder_channels: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=6)] = (256, 128, 64, 32, 16)
    norm: Literal["batch", "group", "instance"] = "batch"
    dropout: Share = 0.0
    freeze_encoder_stages: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _plain_is_random(self) -> "Model":
        if self.arch == "PlainUnet" and self.weights != "none":
            raise ValueError("weights: a PlainUnet has no pretrained encoder; say none")
        return self


class Photometry(Section):
    """What changes an image's pixels and leaves them in their place."""

    colour: Share = 0.5  # strength of brightness, contrast, saturation and hue
    grey: Share = 0.1  # chance of a grey image
    invert: Share = 0.0
    noise: Share = 0.2
    blur: Share = 0.2  # Gaussian or motion


class Augment(Photometry):
    """The training recipe: geometry first (shared by a weak and a strong view), then photometry."""

    crop: Positive = 256
    scale: tuple[Zoom, Zoom] = (0.7, 1.4)  # the least and the most
    flips: bool = True
    rotate90: bool = True
    rotate: Annotated[float, Field(ge=0.0, le=180.0)] = 0.0  # degrees
    foreground: Share = 0.0  # share of crops around a labelled foreground pixel, which lies anywhere in the crop
    cutmix: Share = 0.0  # chance that a training image gets a rectangle of another of its batch


class Loss(Section):
    cross_entropy: Annotated[float, Field(ge=0.0)] = 1.0  # binary cross-entropy for binary and multilabel tasks
    dice: Annotated[float, Field(ge=0.0)] = 1.0
    focal_gamma: Annotated[float, Field(ge=0.0)] = 0.0
    class_weights: Literal["none", "frequency", "sqrt_frequency"] = "none"
    gated_crf: Annotated[float, Field(ge=0.0)] | None = None  # like neighbours, like answers; see RESULTS.md
    label_smoothing: Share = 0.0


class Consistency(Section):
    """Mean teacher: the EMA teacher's view of a weak image against the student's of the strong one."""

    weight: Annotated[float, Field(ge=0.0)] = 1.0
    ramp_epochs: Annotated[int, Field(ge=0)] = 5
    threshold: Share = 0.95
    loss: Literal["cross_entropy", "mse"] = "cross_entropy"
    share: Share = 0.5  # of a batch
    strong: Photometry | None = None  # of the student's view; None: as train.augment has it
    cutmix: Share | None = None  # of the student's views, two by two, and of the answers; None: as train.augment has it
    pool: Pool = ("unlabelled", "test")  # "labelled": the training images too, for pixels that nobody else teaches


class Pseudo(Section):
    """Which of the teachers' labels a student learns from. A pixel or image must pass every rule that is set."""

    teachers: Literal["previous", "all"] = "previous"  # the round before, or every round before
    pool: Pool = ("unlabelled",)  # "labelled": the training images, whose known pixels stay as they are
    labels: Literal["hard", "soft"] = "hard"
    pixel_confidence: Share = 0.0  # the best class's probability
    image_confidence: Share = 0.0  # the share of an image's pixels that pass the pixel rules
    class_quantile: Share = 0.0  # drop each class's least sure share of pixels
    best_to_second: Annotated[float, Field(ge=1.0)] = 1.0  # ratio of the two best classes
    share: Share = 0.5  # of a batch
    tta: bool = True  # teachers predict with test-time augmentation


class Train(Section):
    epochs: Positive = 20
    steps_per_epoch: Annotated[int, Field(ge=0)] = 0  # 0: once through the labelled images
    batch_size: Positive = 8  # per process
    accumulate: Positive = 1
    optimizer: Literal["adamw", "adam"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    encoder_learning_rate: Annotated[float, Field(ge=0.0)] = 0.0  # 0: as the decoder's
    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-2
    schedule: Literal["onecycle", "cosine", "step", "plateau", "constant"] = "onecycle"
    warmup: Share = 0.1  # of all steps (onecycle, cosine)
    step_epochs: Positive = 10  # step: lower the rate every so many epochs
    gamma: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.5  # step, plateau: by this factor
    patience: Positive = 10  # plateau: after more than so many epochs without a better score
    early_stopping: Annotated[int, Field(ge=0)] = 0  # epochs without a better score; 0: never
    clip: Annotated[float, Field(ge=0.0)] = 1.0  # gradient norm; 0: off
    ema: Share = 0.99  # 0: off
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    evaluate_every: Positive = 1  # epochs
    select: Literal["last", "best"] = "last"  # the checkpoint predictions are made with; "best" peeks at its own fold
    compile: bool = False  # by torch.compile: minutes at the start, for quicker steps on a GPU
    workers: Annotated[int, Field(ge=0)] | None = None  # that load samples; None: a GPU's part of the cores, or none
    cache_gb: Annotated[float, Field(ge=0.0)] = 4.0  # decoded images kept in memory, all together
    augment: Augment = Augment()
    loss: Loss = Loss()


class Round(Section):
    """One phase of training. Its `train` section inherits the top one's."""

    phase: Literal["warmup", "joint", "finetune"] = "warmup"
    start: Literal["encoder", "previous"] = "encoder"  # from the pretrained encoder or the round before
    freeze_encoder_stages: Annotated[int, Field(ge=0)] | None = None  # None: as the model section says
    freeze_norms: bool = False  # batch norms keep the means and variances that the round before ended with
    train: Train = Train()
    pseudo: Pseudo | None = None
    consistency: Consistency | None = None

    @model_validator(mode="after")
    def _phase_has_its_parts(self) -> "Round":
        if self.phase != "joint" and (self.pseudo or self.consistency):
            raise ValueError(f"a {self.phase} round trains on real labels alone: drop pseudo/consistency or say joint")
        if self.phase == "joint" and not (self.pseudo or self.consistency):
            raise ValueError("a joint round needs a pseudo: or a consistency: section")
        return self


class Predict(Section):
    window: Positive = 512  # pixels at the working scale, a multiple of 32
    overlap: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.25
    batch_size: Positive = 8
    tta: Literal["none", "mirror", "flips", "d4"] = "d4"  # 1, 2, 4 or 8 views
    scales: Annotated[tuple[Zoom, ...], Field(min_length=1)] = (1.0,)
    patch: Positive | None = None  # score centre crops of this side, seen alone, too; training is judged by these

    @property
    def augments(self) -> bool:
        return self.tta != "none" or self.scales != (1.0,)


class Ensemble(Section):
    mean: Literal["arithmetic", "geometric"] = "arithmetic"
    rounds: Literal["last", "all"] = "all"  # which rounds' models take part
    fit_weights: bool = True


class Postprocess(Section):
    """What turns probabilities into masks; values given here are starting points, fitted out of fold if `fit`."""

    fit: bool = True
    metric: Literal[MaskMetric, "patch_f1", "macro_accuracy", "map", "f2"] | None = None  # None: see Config.metric
    threshold: Share = 0.5
    min_area: Annotated[int, Field(ge=0)] = 0  # pixels at the image's own size
    neck: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.8  # instances part where this share as deep as a middle
    min_confidence: Share = 0.0  # of an instance: the foreground's mean probability over its pixels
    border_width: Positive = 2  # pixels of the border class, at the network's scale


class Config(Section):
    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]  # names files and folders
    seed: Annotated[int, Field(ge=0)] = 0
    task: Literal["binary", "multiclass", "multilabel", "instances"] = "binary"
    classes: tuple[str, ...] = ("foreground",)
    data: Data = Data()
    image: Image = Image()
    folds: Folds = Folds()
    model: Model = Model()
    train: Train = Train()
    rounds: tuple[Round, ...] = (Round(),)
    predict: Predict = Predict()
    ensemble: Ensemble = Ensemble()
    postprocess: Postprocess = Postprocess()
    submission: str | TableFormat = "image"

    @property
    def channels(self) -> int:
        """Number of the network's output channels; those of instances are background, inside and border."""
        return {"binary": 1, "instances": 3}.get(self.task, len(self.classes))

    @property
    def metric(self) -> str:
        """The score that chooses thresholds and weights; dice, map or miou where none is named."""
        return self.postprocess.metric or {"binary": "dice", "instances": "map"}.get(self.task, "miou")

    @model_validator(mode="after")
    def _makes_sense(self) -> "Config":
        if not self.rounds or not 0 < len(set(self.classes)) == len(self.classes):
            raise ValueError("rounds and classes: give at least one of each, and no class twice")
        if (self.rounds[0].phase, self.rounds[0].start) != ("warmup", "encoder"):
            raise ValueError("rounds[0]: nothing comes before it, so its phase must be warmup and its start encoder")
        least, most = {"multilabel": (1, 10**6), "multiclass": (2, 255)}.get(self.task, (1, 1))  # 255 says unknown
        if not least <= len(self.classes) <= most:
            raise ValueError(f"classes: {self.task} takes {least} at least, {most} at most, not {len(self.classes)}")
        if any(one.train.augment.scale[0] > one.train.augment.scale[1] for one in self.rounds):
            raise ValueError("train.augment.scale: give the least zoom, then the most")
        if not all(one.train.loss.cross_entropy or one.train.loss.dice for one in self.rounds):
            raise ValueError("train.loss: with neither cross_entropy nor dice there is nothing to learn from; give one")
        if (self.folds.count == 1) != (self.folds.validation is not None):
            raise ValueError("folds.validation: how many images a single fold (folds.count 1) holds out; give it there")
        if self.folds.count == 1 and (self.postprocess.fit or self.ensemble.fit_weights):
            raise ValueError("folds.count: one fold judges no fit; set postprocess.fit and ensemble.fit_weights false")
        if self.data.labels.keep is None and (self.data.labels.keep_test or self.data.labels.keep_unlabelled):
            raise ValueError("data.labels.keep: how many labels stay; keep_test and keep_unlabelled share out the rest")
        if any(one.freeze_norms and (self.model.norm, one.start) != ("batch", "previous") for one in self.rounds):
            raise ValueError("rounds.freeze_norms: takes start: previous and model.norm: batch; set these or drop it")
        if self.model.arch != "Unet" and any(one.train.augment.crop % 32 for one in self.rounds):
            raise ValueError(f"train.augment.crop: a {self.model.arch} halves it five times; take a multiple of 32")
        if self.data.generator != "none" and (self.data.root or self.data.kaggle):
            raise ValueError("data.generator: it makes its own data, data/<name>/raw; drop data.root and data.kaggle")
        if drawn := self.data.labels.points:
            if self.data.labels.kind not in ("masks", "rle"):
                raise ValueError("data.labels.points: drawn from dense labels alone; let kind be masks or rle")
            if sum(one is not None for one in (drawn.count, drawn.density, drawn.per_class)) != 1:
                raise ValueError("data.labels.points: give one of count, density and per_class")
        if self.metric not in (fit := TASK_METRICS[self.task]):
            raise ValueError(f"postprocess.metric: {self.metric} is not for a {self.task} task; take {', '.join(fit)}")
        if {len(self.image.mean), len(self.image.std)} != {self.image.channels} and self.image.normalise == "fixed":
            raise ValueError(f"image.mean and image.std: give {self.image.channels} values, one a channel")
        return self
