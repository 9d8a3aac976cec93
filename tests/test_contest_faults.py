"""Submissions that can be scored and that cannot: where sizes come from, what does not fit, evaluate.py's command."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import fail, run

from answers import Sizes
from competitions import FORMATS
from contests import score_files
from errors import UserError
from images import write_mask


def scored(name: str, submission: Path, solution: Path, **sizes: Any) -> dict[str, float]:
    return score_files(name, submission, solution, Sizes(**sizes))[0].scores


def write_table(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_images_of_one_pixel(tmp_path: Path) -> None:
    solution = write_table(tmp_path / "a.csv", "id,rle", "a,1 1", "b,")
    assert scored("image", solution, solution, all=(1, 1)) == {"dice": 1.0}
    assert scored("instance", solution, solution, all=(1, 1)) == {"map": 1.0}


def test_sizes_come_from_the_images(tmp_path: Path) -> None:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    write_mask(tmp_path / "images" / "a.png", np.zeros((3, 5), np.uint8))
    write_mask(tmp_path / "images" / "deep" / "b.png", np.zeros((2, 2), np.uint8))
    solution = write_table(tmp_path / "a.csv", "id,rle", "a,1 15", "b,4 1")
    assert scored("image", solution, solution, folder=tmp_path / "images") == {"dice": 1.0}
    solution = write_table(tmp_path / "a.csv", "id,rle,img_height,img_width", "a,1 15,3,5", "b,4 1,2,2")
    assert scored("hubmap2022", write_table(tmp_path / "b.csv", "id,rle", "b,4 1", "a,1 15"), solution) == {"dice": 1.0}


def test_a_solution_may_be_written_like_the_training_table(tmp_path: Path) -> None:
    solution = write_table(tmp_path / "a.csv", "id,annotation,width", "a,1 4,704", "a,9 4,704")
    answer = write_table(tmp_path / "b.csv", "id,predicted", "a,9 4", "a,1 4")
    assert scored("sartorius", answer, solution) == {"map": 1.0}
    solution = write_table(tmp_path / "a.csv", "ImageId, EncodedPixels", "a, 0 4", "a, 8 4")
    answer = write_table(tmp_path / "b.csv", "ImageId,EncodedPixels", "a,0 4 4 4")
    with pytest.raises(UserError, match=r"a.csv row 3: .*occurs twice"):
        score_files("siim_acr", answer, solution, Sizes())
    parts = score_files("siim_acr", answer, solution, Sizes(), "siim_acr_train")
    assert parts[0].scores == {"dice": 1.0}


@pytest.mark.parametrize(
    ("name", "answer", "solution", "message"),
    [
        (
            "tgs_salt",
            ["a,1 1"],
            ["a,1 1", "b,", "c,"],
            r"b.csv: no row for id 'b' and 1 more, which .*a.csv has; add it",
        ),
        ("tgs_salt", ["a,1 1", "x,"], ["a,1 1"], r"b.csv row 3: id 'x' is not in .*a.csv; drop the row"),
        ("tgs_salt", ["a,1 1", "a,"], ["a,1 1"], r"b.csv row 3: id 'a' occurs twice"),
        ("tgs_salt", ["a,1 99999"], ["a,1 1"], r"b.csv row 2: .*beyond the image"),
        ("image", ["a,1 1"], ["a,1 1"], r"a.csv: the size of image 'a' is not known; say --size HxW or --images DIR"),
        ("hubmap", ["a,1 1"], ["a,1 1"], r"no table format 'hubmap'; did you mean 'hubmap202."),
        ("sartorius_train", ["a,1 1"], ["a,1 1"], r"--format sartorius_train: no rule says how it is scored"),
        ("tgs_salt", [], [], r"a.csv: it has no rows, so there is nothing to score"),
        ("sennet", ["a,1 1"], ["a,1 1"], r"id 'a' does not name its volume and slice"),
    ],
)
def test_what_does_not_fit_is_one_clear_line(
    name: str, answer: list[str], solution: list[str], message: str, tmp_path: Path
) -> None:
    header = ",".join(FORMATS.get(name, FORMATS["image"]).columns)
    paths = [write_table(tmp_path / f"{n}.csv", header, *rows) for n, rows in (("b", answer), ("a", solution))]
    sizes = Sizes((9, 9)) if name == "sennet" else Sizes()
    with pytest.raises(UserError, match=message):
        score_files(name, *paths, sizes)


def test_classes_that_are_not_the_solutions(tmp_path: Path) -> None:
    solution = write_table(tmp_path / "a.csv", "id,class,rle", "a,cat,1 1", "a,dog,")
    answer = write_table(tmp_path / "b.csv", "id,class,rle", "a,cat,1 1", "a,cow,")
    with pytest.raises(UserError, match=r"b.csv row 3: class 'cow' is none of cat, dog"):
        scored("image_class", answer, solution, all=(2, 2))
    solution = write_table(tmp_path / "a.csv", "image,class_id,segmentation_rle", "a,1,1 2 1")
    answer = write_table(tmp_path / "b.csv", "image,class_id,segmentation_rle", "a,1,1 2 70000")
    with pytest.raises(UserError, match=r"b.csv row 2: .*; the image is 2x2, mend the row"):
        scored("imagenet_s_2026", answer, solution, all=(2, 2))


def test_overlaps_where_they_are_forbidden(tmp_path: Path) -> None:
    header = "ImageId,EncodedPixels"
    solution = write_table(tmp_path / "a.csv", header, "a.jpg,1 4", "a.jpg,9 4")
    answer = write_table(tmp_path / "b.csv", header, "a.jpg,1 4", "a.jpg,3 6")
    with pytest.raises(UserError, match=r"b.csv row 3: overlaps row 2 of image 'a', which the format forbids"):
        scored("airbus", answer, solution)


def test_usage_that_makes_no_sense(tmp_path: Path) -> None:
    answer = write_table(tmp_path / "b.csv", "id,rle_mask", "a,1 1")
    solution = write_table(tmp_path / "a.csv", "id,rle_mask,Usage", "a,1 1,public")
    assert [part.name for part in score_files("tgs_salt", answer, solution, Sizes())] == ["all", "public"]
    solution = write_table(tmp_path / "a.csv", "id,rle_mask,Usage", "a,1 1,Hidden")
    with pytest.raises(UserError, match=r"a.csv row 2: Usage 'Hidden' is none of Public, Private, Ignored"):
        score_files("tgs_salt", answer, solution, Sizes())
    solution = write_table(tmp_path / "a.csv", "id,rle_mask,Usage", "a,1 1,Ignored")
    with pytest.raises(UserError, match="the Usage of every row is Ignored"):
        score_files("tgs_salt", answer, solution, Sizes())


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No config is read: there is none in the folder."""
    solution = write_table(tmp_path / "a.csv", "id,rle,Usage", "a,1 8,Public", "b,,Private")
    answer = write_table(tmp_path / "b.csv", "id,rle", "a,1 4", "b,")
    files = ("--submission", str(answer), "--solution", str(solution))
    run("evaluate", tmp_path, "--format", "image", *files, "--size", "4x4")
    assert capsys.readouterr().out.splitlines() == [
        "all      dice 0.833333 (2 images)",
        "public   dice 0.666667 (1 images)",
        "private  dice 1.000000 (1 images)",
    ]

    def told(*arguments: str) -> str:
        return fail("evaluate", tmp_path, *arguments, monkeypatch=monkeypatch, capsys=capsys)

    assert "--solution is missing" in told("--format", "image", "--submission", str(answer))
    assert "--size 4: write height and width like 768x1024" in told("--format", "image", *files, "--size", "4")
    assert "--images" in told("--format", "image", *files, "--images", str(tmp_path / "none"))
    (tmp_path / "images").mkdir()
    assert "images does not hold it" in told("--format", "image", *files, "--images", str(tmp_path / "images"))
    assert "no such file" in told("--format", "image", "--submission", "none.csv", "--solution", str(solution))
    clouds = write_table(tmp_path / "c.csv", "Image_Label,EncodedPixels", "a.jpg_Fish,1 1")
    files = ("--submission", str(clouds), "--solution", str(clouds))
    assert "--size: the format's masks are 350x525" in told("--format", "clouds", *files, "--size", "9x9")
    run("evaluate", tmp_path, "--format", "clouds", *files)
    assert capsys.readouterr().out == "all      dice 1.000000 (1 images)\n"
