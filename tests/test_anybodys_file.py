"""make_submission.py on a file that somebody else wrote: --validate lists its faults, --guess names its format."""

from pathlib import Path

import numpy as np
import pytest
from helpers import call
from test_folders import save

from errors import UserError
from faults import guess_formats

VECTORS = Path(__file__).resolve().parents[2] / "shared" / "formats" / "vectors"
needs_vectors = pytest.mark.skipif(not VECTORS.is_dir(), reason=f"no real rows at {VECTORS}")


FAULTY = "ImageId,EncodedPixels\na.jpg,1 2\na.jpg,2 2\nb.jpg,7 9\nc,1 1\na.jpg\nd.jpg,5 1 3 1\n"


def test_every_fault_of_anybodys_file_is_listed(tmp_path):
    (tmp_path / "theirs.csv").write_text(FAULTY)
    save(tmp_path / "images" / "a.png", np.zeros((3, 3)))
    save(tmp_path / "images" / "b.png", np.zeros((3, 3)))
    answer = call("make_submission", tmp_path, "--format", "airbus", "--validate", str(tmp_path / "theirs.csv"))
    assert answer.returncode == 2
    assert answer.stdout.splitlines() == [
        "row 5: id 'c' is not written like '{id}.jpg'",
        "row 6: 1 cells, the header has 2",
        "row 7: run 2 starts before the run before it ends",
        "row 3: overlaps row 2 of image 'a', which the format forbids",
        "note: without the images' sizes, whether runs end inside their image and missing images are not checked; "
        "give --images or --masks",
    ]
    assert answer.stderr.endswith("theirs.csv: 4 faults for airbus\n")
    images = ("--images", str(tmp_path / "images"))
    answer = call(
        "make_submission", tmp_path, "--format", "airbus", "--validate", str(tmp_path / "theirs.csv"), *images
    )
    assert "row 4: run 1 ends beyond the image's 9 pixels" in answer.stdout
    assert "row 7: id 'd' is not among the images to predict" in answer.stdout
    assert "note:" not in answer.stdout


@needs_vectors
@pytest.mark.parametrize(
    ("file", "first"),
    [
        ("airbus/train_ship_segmentations_v2.excerpt.csv", "airbus"),
        ("carvana/train_masks.head_TRUNCATED.csv", "carvana"),
        ("clouds/train.head_TRUNCATED.csv", "clouds_train"),
        ("contrails/evaluation_page_rows.csv", "contrails"),
        ("dsb2018/stage1_sample_submission.head.csv", "dsb2018"),
        ("hubmap_hpa_2022/sample_submission.csv", "hubmap2022"),
        ("openimages_hpa/sample_rows.csv", "hpa2021"),
        ("severstal/train_row_ImageId_ClassId.csv", "severstal"),
        ("siim_acr/fin_excerpt.csv", "siim_acr_train"),
        ("siim_acr/stage1_new_sample_submission.csv", "siim_acr_train"),
        ("tgs_salt/sample_submission.csv", "tgs_salt"),
        ("ultrasound_nerve/train_masks_row.csv", "ultrasound_nerve_train"),
        ("uwmgi/train_values.csv", "uwmgi_train"),
    ],
)
def test_a_real_file_is_guessed(file, first):
    assert guess_formats(VECTORS / file)[0][0] == first


def test_what_no_format_fits_is_said(tmp_path):
    path = tmp_path / "x.csv"
    for text in ("", "a,b\n1,2\n", "id,rle\na,boat\n", '"', "[1", "\x00"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"x.csv: no format of src/competitions.py fits"):
            guess_formats(path)
    path.write_bytes(b"id,rle\n\xff\n")
    with pytest.raises(UserError, match="no format"):
        guess_formats(path)
    path.write_text("id,rle\na,1 0\nb,1 1\n")
    assert [name for name, _ in guess_formats(path)][0] == "sennet"
