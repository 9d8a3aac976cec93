"""Tables, configs, names of files, and the stages' own files that test_rubbish.py tries."""

import unicodedata
from pathlib import Path

import pandas as pd
from helpers import open_workspace
from rubbish import (
    HEIGHT,
    MASKS,
    POINTS,
    WIDTH,
    Check,
    Spoil,
    both,
    coco,
    config,
    configure,
    edited,
    file_at,
    folder_at,
    link,
    points,
    rename,
    right,
    scored,
    setting,
    submission,
    table,
    to_submission,
    write,
    zipped,
)
from rubbish_pictures import tif

LINES = (
    "classes: [building]\ndata: {root: raw, images: 'train/{id}.png', labels: {kind: masks, path: 'masks/{id}.png'}}\n"
)
NFC, NFD = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
HALF = " ".join(f"{1 + HEIGHT * column} {HEIGHT // 2}" for column in range(WIDTH // 2))
ROWS = f"id,rle\na,{HALF}\nb,{HALF}\n"


def points_are(*rows: tuple[str, int, int, int]) -> Check:
    def check(folder: Path) -> None:
        found = pd.read_csv(open_workspace(folder)[1].points, dtype={"image_id": str})
        assert [tuple(row) for row in found.to_numpy().tolist()] == list(rows)

    return check


TABLES: dict[str, tuple[Spoil, str | Check]] = {
    "byte order mark, CRLF and quotes": (
        table(b"\xef\xbb\xbf" + ROWS.replace("\n", "\r\n").replace("a,", '"a", ').encode()), right()),
    "CR alone": (table(ROWS.replace("\n", "\r")), right()),
    "tabs": (table(ROWS.replace(",", "\t")), r"train\.csv row 1: the header is 'id\\trle', the format's 'id,rle'"),
    "semicolons": (table(ROWS.replace(",", ";")), r"train\.csv row 1: the header is 'id;rle'"),
    "Arabic digits": (
        table(ROWS.translate({48 + n: 0x660 + n for n in range(10)})), r"train\.csv row 2: only digits and spaces"),
    "a million columns": (table(",".join(map(str, range(10**6))) + "\n"), r"row 1: the header is '0,1,2,"),
    "a million cells": (table("id,rle\na" + "," * 10**6 + "\n"), r"train\.csv row 2: 1000001 cells, the header has 2"),
    "nothing": (table(""), r"train\.csv row 1: the header is '', the format's 'id,rle'"),
    "a header alone": (table("id,rle\n"), r"train/a\.png: image 'a' has no label in train\.csv"),
    "NUL bytes": (table(ROWS.replace("b,", "b\0,")), r"train\.csv row 3: id 'b\\x00' has no image"),
    "zeros": (table("\0" * 5000), r"train\.csv row 1: the header is '"),
    "Latin-1": (table("id,rle\né,\n".encode("latin-1")), r"train\.csv row \d or later: not UTF-8 text; save"),
    "UTF-16": (table(ROWS.encode("utf-16")), r"train\.csv row \d or later: not UTF-8 text"),
    "a quote without end": (table('id,rle\n"a,1 1\n'), r"train\.csv row \d: not a CSV row"),
    "a number of 100,000 digits": (table(f"id,rle\na,{'9' * 10**5} 1\nb,\n"), r"train\.csv row 2: .{0,200}$"),
    "an odd count": (table("id,rle\na,1 2 3\nb,\n"), r"train\.csv row 2: 3 integers are not whole groups of 2"),
    "a negative start": (table("id,rle\na,-1 2\nb,\n"), r"train\.csv row 2: only digits"),
    "10**30": (table(f"id,rle\na,{10**30} 1\nb,\n"), r"train\.csv row 2: \d+ lies beyond the image"),
    "beyond the last pixel": (table("id,rle\na,192 2\nb,\n"), r"train\.csv row 2: run 1 ends beyond the image's 192"),
    "unsorted runs": (table("id,rle\na,9 1 3 1\nb,\n"), r"train\.csv row 2: run 2 starts before the run before"),
    "overlapping runs": (table("id,rle\na,1 5 3 5\nb,\n"), r"train\.csv row 2: run 2 starts before"),
    "a run of nothing": (table("id,rle\na,1 0\nb,\n"), r"train\.csv row 2: run 1 has no length"),
    "an id of other code points": (
        both(rename("a", NFD), table(ROWS.replace("a,", f"{NFC},"))),
        r"train\.csv row 2: id 'é' has no image \(one looks alike, .*NFC and NFD\); add"),
    "an id with a space nobody sees": (
        table(ROWS.replace("a,", "a\u200b,")), r"train\.csv row 2: id 'a\\u200b' has no image"),
    "JSON of 100,000 brackets": (coco("[" * 10**5), r"labels\.json row 1 or later: not such a JSON file \(too deep\)"),
    "JSON cut short": (coco('[{"image_id": 1'), r"labels\.json row 1 or later: not JSON"),
    "JSON of a giant image": (
        coco('[{"image_id": "a", "category_id": 1, "segmentation": {"size": [1000000000, 1], "counts": "0"}}]'),
        r"labels\.json row 1: "),
    "JSON of a number of 5,000 digits": (coco(f'[{{"image_id": {"9" * 5000}}}]'), r"labels\.json row 1.{0,300}$"),
    "a polygon with NaN": (
        coco('[{"image_id": "a", "category_id": 1, "segmentation": [[NaN, 1, 2, 3, 4, 5]]}]'),
        r"labels\.json row 1: a polygon is not three or more points"),
    "an infinite polygon": (
        coco('[{"image_id": "a", "category_id": 1, "segmentation": [[1e999, 1, 2, 3, 4, 5]]}]'),
        r"labels\.json row 1: a polygon is not three or more points"),
}  # fmt: skip

POINT_TABLES: dict[str, tuple[Spoil, str | Check]] = {
    "points: Arabic digits": (points("a,٣,٤,building"), points_are(("a", 3, 4, 1))),
    "points: a number of 5,000 digits": (points(f"a,{'9' * 5000},0,building"), r"points\.csv row 2: x '999"),
    "points: NaN": (points("a,nan,0,building"), r"points\.csv row 2: x 'nan', y '0' are not whole numbers"),
    "points: outside": (points("a,16,0,building"), r"points\.csv row 2: \(16, 0\) is outside 'a' of 16x12"),
    "points: a giant cell": (points(f"{'a' * 200_000},0,0,building"), r"points\.csv row 2( or later)?: "),
    "points: a million columns": (
        table(",".join(map(str, range(10**6))), POINTS), r"points\.csv row 1: header 0,1,2"),
    "points: NUL bytes": (points("a\0,0,0,building"), r"points\.csv row 2: id 'a\\x00' has no image"),
    "points: a quote without end": (points('"a,0,0,building'), r"points\.csv row \d or later: not a CSV row"),
    "points: nothing": (table("", POINTS), r"points\.csv row 1: header ''|points\.csv row 1: header ; a"),
    "points: byte order mark and CRLF": (
        table("\ufeffimage_id,x,y,class\r\n\"a\",3,4,building\r\nb,1,2,1\r\n", POINTS),
        points_are(("a", 3, 4, 1), ("b", 1, 2, 1))),
}  # fmt: skip


ANCHORS = """\
classes: [building]
data: {root: raw, images: "train/{id}.png", labels: {kind: masks, path: "masks/{id}.png"}}
train: &fast {epochs: 1, augment: {crop: 32}}
rounds: [{phase: warmup}, {phase: finetune, train: {<<: *fast, epochs: 2}}]
"""


def two_rounds(folder: Path) -> None:
    config = open_workspace(folder)[0]
    assert [one.train.epochs for one in config.rounds] == [1, 2]
    assert config.rounds[1].train.augment.crop == 32


def aliases(levels: int) -> str:
    """`laughs`: a mapping of nine mappings of nine mappings …, a kilobyte that says billions."""
    lines = ["l0: &l0 {a: 1}"]
    for level in range(1, levels):
        lines.append(f"l{level}: &l{level} {{{', '.join(f'k{n}: *l{level - 1}' for n in range(9))}}}")
    return "\n".join(lines) + "\n"


CONFIGS: dict[str, tuple[Spoil, str | Check]] = {
    "anchors and merges": (config(ANCHORS), two_rounds),
    "a byte order mark": (config("\ufeff" + LINES), right()),
    "CRLF": (config(LINES.replace("\n", "\r\n")), right()),
    "an object": (config(LINES + "seed: !!python/object:os.system {}\n"), r"tiny\.yaml: not valid YAML: .*os\.sys"),
    "a call": (config(LINES + 'x: !!python/object/apply:os.mkdir ["burst"]\n'), r"tiny\.yaml: not valid YAML: .*os\.m"),
    "a key twice": (config(LINES + "seed: 1\nseed: 2\n"), r"tiny\.yaml: .*'seed'.* twice.*line 4"),
    "a key twice in a section": (config(LINES + "train: {epochs: 1, epochs: 2}\n"), r"tiny\.yaml: .*'epochs'.* twice"),
    "a billion laughs": (config(LINES + aliases(12)), r"tiny\.yaml: .*aliases"),
    "a billion laughs in every round": (
        config(LINES + aliases(12) + "train: *l11\nrounds: [{train: *l11}]\n"), r"tiny\.yaml: .*aliases"),
    "an alias to itself": (config(LINES + "train: &t {augment: *t}\nrounds: [{train: *t}]\n"), r"tiny\.yaml: .*itself"),
    "1,000 levels": (config(LINES + "image: " + "{a: " * 1000), r"tiny\.yaml: .*deep"),
    "100,000 levels without end": (config("a: " + "{a: " * 10**5), r"tiny\.yaml: .*deep"),
    "a number of 5,000 digits": (config(LINES + f"seed: {'9' * 5000}\n"), r"tiny\.yaml: not valid YAML: Exceeds"),
    "a 32nd of the 13th": (config(LINES + "seed: 2024-13-32\n"), r"tiny\.yaml: not valid YAML"),
    "a name that is a date": (config(LINES + "name: 2024-01-02\n"), r"tiny\.yaml: name: Input should be a valid str"),
    "NUL": (config(LINES + "seed: \0\n"), r"tiny\.yaml: not valid YAML"),
    "tabs for spaces": (config("data:\n\troot: raw\n"), r"tiny\.yaml: not valid YAML"),
    "UTF-16 YAML": (config(LINES.encode("utf-16")), r"tiny\.yaml: not valid YAML"),
    "two documents": (config(LINES + "---\n" + LINES), r"tiny\.yaml: not valid YAML"),
    "a text": (config("just words"), r"tiny\.yaml: a config is a mapping of keys to values, not a str"),
    "keys that are no text": (config(LINES + "1: 2\n"), r"tiny\.yaml: "),
    "a key that is a list": (config(LINES + "[a]: 2\n"), r"tiny\.yaml: "),
    "NaN for a number": (config(LINES + "train: {learning_rate: .nan}\n"), r"tiny\.yaml: .*learning_rate: .*finite"),
    "infinity for a number": (config(LINES + "image: {scale: .inf}\n"), r"tiny\.yaml: image\.scale: .*finite"),
    "a giant number": (setting("image.channels=1e400"), r"image\.channels: "),
    "a setting of 1,000 levels": (setting("classes=" + "{a: " * 1000), r"--set classes=.*deep"),
    "a setting that is an object": (setting("seed=!!python/name:os.system ''"), r"--set seed=.* is not a YAML value"),
    "a setting of 5,000 digits": (setting(f"seed={'9' * 5000}"), r"--set seed=9"),
    "a name out of the folder": (config(LINES + "name: ../../x\n"), r"tiny\.yaml: name: String should match pattern"),
    "a name of 300 letters": (config(LINES + f"name: {'x' * 300}\n"), r"name: "),
    "an id out of the folder": (setting("data.id='../../../{id}'"), r"data\.id: '\.\./\.\./\.\./a' leaves"),
    "an id from the root": (setting("data.id='/tmp/{id}'"), r"data\.id: '/tmp/a' leaves"),
    "a template out of the folder": (setting("data.images='../{id}.png'"), r"data\.images: .* is no path below"),
    "a template with NUL": (setting(r'data.images="train/\0{id}.png"'), r"data\.images: "),
    "a template of fifty stars": (setting(f"data.images=train/{'*' * 50}x{{id}}.png"), r"data\.images: no file"),
    "a root with NUL": (setting(r'data.root="r\0"'), r"data\.root: no folder"),
}  # fmt: skip


LONG = "x" * 251  # with .png as long as a file's name can be
PATHS: dict[str, tuple[Spoil, str | Check]] = {
    "spaces": (rename("a", " a  x "), right(" a  x |b")),
    "composed letters": (rename("a", NFC), right(f"{NFC} b")),
    "decomposed letters": (rename("a", NFD), right(f"{NFD} b")),
    "ids of digits": (both(rename("a", "007"), rename("b", "7")), right("007 7")),
    "ids like numbers": (both(rename("a", "1e5"), rename("b", "NaN")), right("1e5 NaN")),
    "ids like words of code": (both(rename("a", "None"), rename("b", "=1+1")), right("=1+1 None")),
    "ids with slashes": (
        both(rename("a", "t/a"), rename("b", "t/b"), lambda one: configure(
            one, MASKS | {"path": "masks/{t}/{id}.png"}, {"images": "train/{t}/{id}.png", "id": "{t}/{id}"})),
        right("t/a t/b")),
    "quotes and commas": (rename("a", 'a,"b'), right('a,"b b')),
    "the longest name": (rename("a", LONG), right(f"{LONG} b")),
    "the longest name of three-byte letters": (rename("a", "日" * 83 + "xx"), right(f"{'日' * 83}xx b")),
    "an id longer than any name": (both(rename("a", LONG), setting("data.id='{id}{id}'")), r"x{200}.*too long"),
    "a name that is not UTF-8": (rename("a", b"caf\xe9"), r"/caf\\udce9\.png: its name is not UTF-8; rename"),
    "a name of two lines": (
        both(rename("a", "a\nb"), lambda one: write(one / "raw/train/a\nb.png", "x")), r"train/a\\nb\.png: cannot"),
    "a name that rings": (
        both(rename("a", "a\x1b[2J"), lambda one: write(one / "raw/train/a\x1b[2J.png", "x")), r"a\\x1b\[2J\.png: "),
    "an image that is a link to outside": (link("raw/train/a.png", "../../outside/a.png"), right()),
    "a data folder that is a link": (link("raw", "outside/raw"), right()),
    "a link to nothing": (link("raw/train/c.png", "nowhere.png"), right()),
    "a link to itself": (link("raw/train/c.png", "c.png"), right()),
    "a folder that links to its parent": (link("raw/train/c", ".."), right()),
    "a root that links to itself": (
        both(file_at("raw"), lambda one: (one / "raw").unlink(), link("raw", "raw")), r"data\.root: no folder"),
    "a folder named like an image": (folder_at("raw/train/c.png"), right()),
    "a folder for the config": (folder_at("tiny.yaml"), r"tiny\.yaml: no such config"),
    "a folder for the table": (
        both(table(""), folder_at("raw/train.csv")), r"data\.labels\.path: no file .*train\.csv"),
    "a folder for the index": (both(folder_at("data/tiny/index.csv/mine")), right()),
    "a file for the data": (file_at("raw"), r"data\.root: no folder .*raw"),
    "a file for the images": (file_at("raw/train"), r"data\.images: no file matches"),
    "a file for the outputs": (file_at("data"), r"/data/.*: a file stands where a folder should be; "),
    "a file for the workspace": (
        both(
            file_at("taken"),
            lambda one: ["prepare", "--workspace", str(one / "taken"), "--set", f"data.root={one}/raw"]),
        r"/taken/.*: a file stands where a folder should be; write elsewhere, by --workspace"),
}  # fmt: skip

NAMES = ",".join(f"class{number}" for number in range(100))


def kept(place: str, check: Check = lambda folder: None) -> Check:
    def look(folder: Path) -> None:
        assert (folder / place).exists()
        check(folder)

    return look


FILES: dict[str, tuple[Spoil, str | Check]] = {
    "submission cut short": (submission("id,rle\na"), r"theirs\.csv: 1 faults"),
    "submission in Latin-1": (submission("id,rle\n\xe9,\n".encode("latin-1")), r"theirs\.csv: 1 faults"),
    "submission of a giant size": (
        submission('[{"image_id": 1, "category_id": 1, "score": 1, "segmentation": {"size": [999999, 999999], '
                   '"counts": "0"}}]', "coco", "--classes", "x"), r"theirs\.csv: 1 faults"),
    "score of a giant image": (
        scored("id,rle_mask\na,1 1\n", "id,rle_mask,height,width\na,1 1,999999,999999\n"),
        r"truth\.csv: image 'a': masks of 999999x999999 take 4000.0 GB"),
    "score of a giant size": (
        scored("id,predicted\na,1 1\n", "id,predicted\na,1 1\n", "--size", "999999x999999", name="hubmap2021"),
        r"truth\.csv: image 'a': masks of 999999x999999 take 4000.0 GB"),
    "score of a header of one giant cell": (
        scored("id,rle_mask\na,1 1\n", "i" * 200_000 + "\n"), r"truth\.csv row 1: "),
    "score of a table in UTF-16": (
        scored("id,rle_mask\na,1 1\n".encode("utf-16"), "id,rle_mask\na,1 1\n"), r"mine\.csv row \d.*: "),
    "classes in Latin-1": (
        both(lambda one: write(one / "names.txt", "\xe9".encode("latin-1")), to_submission(
            "--classes", "@/names.txt", name="openimages2019")), r"names\.txt: not UTF-8"),
    "classes of a thousand letters": (
        to_submission("--classes", NAMES, "--task", "binary", name="hubmap2021"), kept("out.csv")),
    "a folder for the submission": (
        both(folder_at("out.csv/mine"), to_submission()), r"out\.csv: a folder .*"),
    "a folder for the format": (both(folder_at("x.yaml"), to_submission(name="x.yaml")), r"x\.yaml: "),
    "a file for the masks' folder": (
        both(file_at("raw/masks"), to_submission()), r"raw/masks: a file, not a folder"),
    "a sample of NUL": (
        both(lambda one: write(one / "s.csv", "\0\0"), to_submission("--sample", "@/s.csv")), r"s\.csv row 1: "),
    "a zip of a giant image": (zipped({"a.tif": tif(65535, 65535)}), r"theirs\.zip: 1 faults for inria"),
    "a zip of text": (zipped({"a.tif": b"x" * 1000}), r"theirs\.zip: 1 faults for inria"),
    "an index of nothing": (edited("data/tiny/index.csv", "", "make_folds"), r"index\.csv: "),
    "an index of NUL": (edited("data/tiny/index.csv", "\0" * 99, "make_folds"), r"index\.csv: "),
    "an index in Latin-1": (edited("data/tiny/index.csv", b"\xe9,\n", "make_folds"), r"index\.csv: "),
    "an index of words for numbers": (
        edited("data/tiny/index.csv", "image_id,image,mask,points,group,split,height,width\na,,,,,labelled,x,y\n",
               "make_folds"), r"index\.csv: "),
    "an index with an id out of the folder": (
        edited("data/tiny/index.csv", "image_id,image,mask,points,group,split,height,width\n../a,,,0,,test,1,1\n",
               "make_folds"), r"index\.csv: .*'\.\./a'"),
    "coverage of nothing": (edited("data/tiny/coverage.csv", "", "make_folds"), r"coverage\.csv: "),
    "a manifest that is a list": (edited("data/tiny/manifest.json", "[]", "prepare"), r"manifest\.json: "),
    "a manifest of 100,000 brackets": (edited("data/tiny/manifest.json", "[" * 10**5, "prepare"), r"manifest\.json: "),
    "a manifest of NUL": (edited("data/tiny/manifest.json", "\0", "prepare"), r"manifest\.json: not valid JSON"),
}  # fmt: skip
