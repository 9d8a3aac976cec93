#!/usr/bin/env bash
# A system against the protocol it came from, on data that can be had.
#
#   bash bench/compare_systems.sh potsdam_points --seeds 0 1 2
#
# The systems: satellite_pseudo, microct_mean_teacher, microct_dsb, potsdam_points, deepglobe_points, dubai_points. What
# follows the name goes to bench/compare_configs.py. Where a system's own data cannot be fetched by a program, its
# configs run on nuclei (DSB 2018) or aerial photos (Dubai) from ../shared/data instead. Both sides have
# EfficientNet-Lite0 for every pretrained encoder, and a plain U-Net as wide as two cores can bear. "longer" is the
# original protocol with as many steps as ours takes.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
system=${1:-}
shift || true
ours=$top/configs/$system.yaml
original=$top/configs/originals/$system.yaml

lite0=(
    --set model.encoder=tu-tf_efficientnet_lite0
    --set "image.mean=[0.5,0.5,0.5]"
    --set "image.std=[0.5,0.5,0.5]"
)
one_split=(
    --set folds.count=1
    --set folds.group=false
    --set postprocess.fit=false
    --set ensemble.fit_weights=false
)

# Dubai's photos at 256x256, 42 to learn from and 14 to judge by; $1 is the rule that points are drawn by.
dubai() {
    data='{"root": "../shared/data/dubai/Semantic segmentation dataset", "images": "{tile}/images/{part}.jpg",
        "id": "{tile}/{part}", "group": "{tile}", "labels": {"kind": "masks", "path": "{tile}/masks/{part}.png",
        "encoding": "palette", "palette": {"building": [60, 16, 152], "land": [132, 41, 246], "road": [110, 193, 228],
        "vegetation": [254, 221, 58], "water": [226, 169, 41]}, "ignore": [[155, 155, 155], [0, 0, 0]],
        "without_label": "test", "points": {'"$1"', "grid": "working", "judge": "masks"}}}'
    on_dubai=(
        --set "data=$data"
        --set "classes=[building, land, road, vegetation, water]"
        --set 'submission={"columns": {"id": "id", "class": "class", "rle": "rle"}, "rows": "image_class", "order": "F",
            "base": 1, "overlap": "forbid"}'
        --set image.scale=1.0
        --set image.long_side=256
        --set predict.window=256
        --set train.augment.crop=256
        --set folds.validation=14
    )
}

case $system in
satellite_pseudo) # 51 labelled images of nuclei, 17 of them to judge by, 150 without labels, and 100 to test on
    arms=(
        --arm original "$original"
        --arm longer "$original" train.epochs=50
        --arm ours "$ours"
        --set 'data={"root": "../shared/data/dsb2018", "images": "stage1_train/{id}/images/{id}.png", "labels": {"kind":
            "rle", "path": "stage1_train_labels.csv", "format": "dsb2018", "keep": 51, "keep_test": 100,
            "keep_unlabelled": 150}}'
        --set train.batch_size=8
        --set image.long_side=256
        --set folds.validation=17
        "${one_split[@]}" "${lite0[@]}"
    ) ;;
microct_mean_teacher | microct_dsb)
    arms=(
        --arm original "$original"
        --arm ours "$ours"
        --set "model.decoder_channels=[128,64,32,16,16]"
    ) ;;
potsdam_points) # 400 steps; in an epoch, 42 photos would make five of them and Potsdam's 1,920 patches 120
    dubai '"count": 20000'
    arms=(
        --arm unweighted "$original" train.loss.class_weights=none
        --arm original "$original"
        --arm ours "$ours"
        --set train.epochs=40
        --set train.steps_per_epoch=10
        --set train.batch_size=8
        "${on_dubai[@]}" "${one_split[@]}" "${lite0[@]}"
    ) ;;
deepglobe_points)
    dubai '"density": 0.01'
    arms=(
        --arm original "$original"
        --arm longer "$original" train.epochs=70
        --arm ours "$ours"
        "${on_dubai[@]}" "${one_split[@]}" "${lite0[@]}"
    ) ;;
dubai_points)
    arms=(
        --arm original "$original"
        --arm longer "$original" train.epochs=80
        --arm ours "$ours" train.epochs=16 train.evaluate_every=8 "rounds=[{}]" # as many steps, all on points
        --set folds.validation=14
        "${one_split[@]}" "${lite0[@]}"
    ) ;;
*)
    echo "compare_systems.sh: no system ${system:-named}; take satellite_pseudo, microct_mean_teacher, microct_dsb," \
        "potsdam_points, deepglobe_points or dubai_points" >&2
    exit 2
    ;;
esac

python=python
[[ ! -x $top/.venv/bin/python ]] || python=$top/.venv/bin/python # what run.sh has set up
exec "${PYTHON:-$python}" "$top/bench/compare_configs.py" "${arms[@]}" "$@"
