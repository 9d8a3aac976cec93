"""What each competition's file looks like, declared: a competition in a few lines. A user's own stands in YAML.

    from competitions import ARCHIVES, FORMATS
    FORMATS["severstal"].columns

`config.TableFormat` and `ArchiveFormat` say what each setting means; `formats.py` and `archives.py` do it.
"""

from config import ArchiveFormat, TableFormat


def _table(columns: str, **settings: object) -> TableFormat:
    """`"ImageId:id EncodedPixels:rle"` → the format."""
    return TableFormat(columns=dict(column.rsplit(":", 1) for column in columns.split()), **settings)


def _imaterialist(columns: str, id: str, **settings: object) -> TableFormat:
    numbers = tuple(map(str, range(46)))
    return _table(f"{columns} ClassId:class_number", rows="instance", id=id, class_base=0, classes=numbers, **settings)


def _detections(columns: str, **settings: object) -> TableFormat:
    return _table(columns, rows="detections", codec="coco_zlib_b64", **settings)


_CLOUDS = ("Fish", "Flower", "Gravel", "Sugar")
_SEVERSTAL = ("1", "2", "3", "4")
_UWMGI = ("large_bowel", "small_bowel", "stomach")
_HPA = (
    "Nucleoplasm",
    "Nuclear membrane",
    "Nucleoli",
    "Nucleoli fibrillar center",
    "Nuclear speckles",
    "Nuclear bodies",
    "Endoplasmic reticulum",
    "Golgi apparatus",
    "Intermediate filaments",
    "Actin filaments",
    "Microtubules",
    "Mitotic spindle",
    "Centrosome",
    "Plasma membrane",
    "Mitochondria",
    "Aggresome",
    "Cytosol",
    "Vesicles and punctate cytosolic patterns",
    "Negative",
)

# From the competitions' pages, public code and real rows; where they differ, the sample file is the
# judge of header, ids and order. `_train` stands where the training table has other columns than the submission.
FORMATS: dict[str, TableFormat] = {
    "tgs_salt": _table("id:id rle_mask:rle"),
    "airbus": _table("ImageId:id EncodedPixels:rle", rows="instance", id="{id}.jpg", overlap="forbid"),
    "carvana": _table("img:id rle_mask:rle", order="C", id="{id}.jpg"),
    "dsb2018": _table("ImageId:id EncodedPixels:rle", rows="instance", overlap="forbid"),
    "ultrasound_nerve_train": _table("subject:id img:id pixels:rle"),
    "ultrasound_nerve": _table("img:id pixels:rle"),
    "siim_acr_train": _table("ImageId:id EncodedPixels:rle", rows="instance", base=0, relative=True, empty="-1"),
    "siim_acr": _table("ImageId:id EncodedPixels:rle", base=0, relative=True, empty="-1"),
    "severstal": _table(
        "ImageId_ClassId:id EncodedPixels:rle", rows="image_class", id="{id}.jpg_{class_number}", classes=_SEVERSTAL
    ),
    "severstal_class_column": _table(
        "ImageId:id ClassId:class_number EncodedPixels:rle", rows="image_class", id="{id}.jpg", classes=_SEVERSTAL
    ),
    "clouds_train": _table(
        "Image_Label:id EncodedPixels:rle", rows="image_class", id="{id}.jpg_{class}", classes=_CLOUDS
    ),
    "clouds": _table(
        "Image_Label:id EncodedPixels:rle",
        rows="image_class",
        id="{id}.jpg_{class}",
        classes=_CLOUDS,
        size=(350, 525),
    ),
    "hubmap2021_train": _table("id:id encoding:rle"),
    "hubmap2021": _table("id:id predicted:rle"),
    "hubmap2022": _table("id:id rle:rle"),
    "sartorius_train": _table("id:id annotation:rle", rows="instance", order="C"),
    "sartorius": _table("id:id predicted:rle", rows="instance", order="C", overlap="forbid"),
    "uwmgi_train": _table("id:id class:class segmentation:rle", rows="image_class", order="C", classes=_UWMGI),
    "uwmgi": _table("id:id class:class predicted:rle", rows="image_class", order="C", classes=_UWMGI),
    "contrails": _table("record_id:id encoded_pixels:rle", empty="-"),
    "vesuvius": _table("Id:id Predicted:rle", order="C"),
    "sennet": _table("id:id rle:rle", order="C", empty="1 0"),
    # the pages do not settle the base of the runs; 1 1,23 in the sample is a filler pixel
    "imaterialist2019_train": _imaterialist("ImageId:id EncodedPixels:rle Height:height Width:width", "{id}.jpg"),
    "imaterialist2019": _imaterialist("ImageId:id EncodedPixels:rle", "{id}.jpg", overlap="forbid", size=(512, 512)),
    "imaterialist2020_train": _imaterialist("ImageId:id EncodedPixels:rle Height:height Width:width", "{id}"),
    "imaterialist2020": _imaterialist("ImageId:id EncodedPixels:rle", "{id}", overlap="forbid"),
    "openimages2019": _detections("ImageID:id ImageWidth:width ImageHeight:height PredictionString:rle"),
    "hpa2021": _detections(
        "ID:id ImageWidth:width ImageHeight:height PredictionString:rle",
        cell=("class_number", "score", "rle"),
        class_base=0,
        classes=_HPA,
    ),
    "hubmap2023_train": _table("id:id type:class coordinates:rle", rows="instance", file="polygons"),
    "hubmap2023": _detections(
        "id:id height:height width:width prediction_string:rle",
        cell=("class_number", "score", "rle"),
        class_base=0,
        classes=("blood_vessel",),
    ),
    "epfl_roads": _table("id:id prediction:rle", rows="patch", id="{id:0>3}_{x}_{y}", empty="0"),
    "coco": _table(
        "image_id:id category_id:class_number segmentation:rle score:score",
        rows="instance",
        file="coco",
        codec="coco_counts",
    ),
    "imagenet_s_2025": _table(
        "ID:id Label:class_number MASK_RLE:rle", codec="count_value", order="C", size=(224, 224), empty="50176 0"
    ),
    "imagenet_s_2026": _table(
        "image:id class_id:class_number segmentation_rle:rle", codec="start_length_value", order="C"
    ),
    # of no competition
    "image": _table("id:id rle:rle"),
    "image_class": _table("id:id class:class rle:rle", rows="image_class"),
    "instance": _table("id:id rle:rle", rows="instance"),
}

# Files of masks, one an image: what their pixels mean. A class's position here is its index.
ARCHIVES: dict[str, ArchiveFormat] = {
    "cityscapes": ArchiveFormat(
        values={
            "road": 7,
            "sidewalk": 8,
            "building": 11,
            "wall": 12,
            "fence": 13,
            "pole": 17,
            "traffic light": 19,
            "traffic sign": 20,
            "vegetation": 21,
            "terrain": 22,
            "sky": 23,
            "person": 24,
            "rider": 25,
            "car": 26,
            "truck": 27,
            "bus": 28,
            "train": 31,
            "motorcycle": 32,
            "bicycle": 33,
        },
        ignore=(0, 1, 2, 3, 4, 5, 6, 9, 10, 14, 15, 16, 18, 29, 30, 255),
    ),
    "loveda": ArchiveFormat(
        values={
            "background": 1,
            "building": 2,
            "road": 3,
            "water": 4,
            "barren": 5,
            "forest": 6,
            "agriculture": 7,
        },
        ignore=(0,),
    ),
    # the test server takes classes from 0, other than the labels (mmsegmentation's LoveDADataset writes them so)
    "loveda_test": ArchiveFormat(
        values={
            "background": 0,
            "building": 1,
            "road": 2,
            "water": 3,
            "barren": 4,
            "forest": 5,
            "agriculture": 6,
        }
    ),
    "isprs": ArchiveFormat(
        name="{id}.tif",
        encoding="palette",
        palette={
            "impervious": (255, 255, 255),
            "building": (0, 0, 255),
            "low vegetation": (0, 255, 255),
            "tree": (0, 255, 0),
            "car": (255, 255, 0),
            "clutter": (255, 0, 0),
        },
        ignore=((0, 0, 0),),
    ),
    "deepglobe": ArchiveFormat(
        name="{id}_mask.png",
        image="{id}_sat.jpg",
        encoding="palette",
        palette={
            "urban": (0, 255, 255),
            "agriculture": (255, 255, 0),
            "rangeland": (255, 0, 255),
            "forest": (0, 255, 0),
            "water": (0, 0, 255),
            "barren": (255, 255, 255),
        },
        ignore=((0, 0, 0),),
    ),
    "imagenet_s": ArchiveFormat(encoding="rgb_id", ignore=(1000,)),
    "inria": ArchiveFormat(name="{id}.tif", container="zip", values={"background": 0, "building": 255}),
    "on_cloud_n": ArchiveFormat(name="{id}.tif", container="zip", values={"background": 0, "cloud": 1}),
    "xview2_localization": ArchiveFormat(
        name="test_localization_{id}_prediction.png",
        image="test_pre_{id}.png",
        values={"background": 0, "building": 1},
    ),
    "xview2_damage": ArchiveFormat(
        name="test_damage_{id}_prediction.png",
        image="test_post_{id}.png",
        values={"background": 0, "no damage": 1, "minor damage": 2, "major damage": 3, "destroyed": 4},
    ),
}
