"""Faces restored by programs, on a device where a face is any picture that is wider than high."""

from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from driving import drive, interrupt, of
from toy import JOB, ToyDevice, toy_img2img, toy_picture

from sdserver.calls import Decode, FindFaces, Interrupted, ParseFace, Report, RestoreFace
from sdserver.images.faces import SIDE
from sdserver.jobs.job import FaceRestorer, Faces, FaceStep, Restore, Size
from sdserver.programs.faces import restored
from sdserver.programs.img2img import img2img
from sdserver.programs.restore import restore
from sdserver.programs.txt2img import txt2img

GFPGAN = FaceRestorer("GFPGAN", "/models/GFPGANv1.4.pth", "/models/detector.pth", "/models/parser.pth")
CODEFORMER = replace(GFPGAN, kind="CodeFormer", weight=0.0)
WIDE = Size(768, 512)  # 96 x 64 pixels on the toy device
FACE_CALLS = FindFaces | RestoreFace | ParseFace


def levels(picture):
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3).astype(int)


def outcome_of(job, program=txt2img):
    return drive(program(job), ToyDevice().answer)


def test_a_picture_is_decoded_then_its_faces_are_found_restored_and_parsed():
    plain, _ = outcome_of(replace(JOB, size=WIDE))
    outcome, calls = outcome_of(replace(JOB, size=WIDE, faces=Faces(GFPGAN)))
    after = calls[calls.index(of(calls, Decode)[0]) + 1 :]
    assert [type(call) for call in after] == [FindFaces, RestoreFace, ParseFace]
    assert after[0].picture == plain.picture
    assert {call.restorer for call in after} == {GFPGAN}
    assert (after[1].face.width, after[1].face.height) == (SIDE, SIDE)
    before, result = levels(plain.picture), levels(outcome.picture)
    middle = (slice(16, 48), slice(16, 48))
    assert np.abs(result[middle] - (255 - before[middle])).max() <= 3
    assert np.array_equal(result[:, 66:], before[:, 66:])
    assert (outcome.interrupted, outcome.before_faces, outcome.used) == (False, None, plain.used)


def test_a_picture_without_faces_is_as_it_was():
    plain, _ = outcome_of(JOB)
    outcome, calls = outcome_of(replace(JOB, faces=Faces(GFPGAN, keeps_picture=True)))
    assert outcome == plain
    assert [type(call) for call in calls if isinstance(call, FACE_CALLS)] == [FindFaces]


def test_the_picture_before_is_kept_where_it_is_wanted():
    plain, _ = outcome_of(replace(JOB, size=WIDE))
    outcome, _ = outcome_of(replace(JOB, size=WIDE, faces=Faces(GFPGAN, keeps_picture=True)))
    assert outcome.before_faces == plain.picture
    assert outcome.picture != plain.picture


def test_img2img_restores_faces_too():
    job = toy_img2img(replace(JOB, size=WIDE), init=toy_picture(768, 512))
    plain, _ = outcome_of(job, img2img)
    outcome, calls = outcome_of(replace(job, faces=Faces(CODEFORMER, keeps_picture=True)), img2img)
    assert outcome.before_faces == plain.picture != outcome.picture
    assert of(calls, RestoreFace)[0].restorer == CODEFORMER


@pytest.mark.parametrize("kind", [FindFaces, RestoreFace, ParseFace])
def test_whoever_interrupts_gets_the_picture_as_it_was(kind):
    plain, _ = outcome_of(replace(JOB, size=WIDE))
    program = txt2img(replace(JOB, size=WIDE, faces=Faces(GFPGAN, keeps_picture=True)))

    def is_due(wanted):
        return isinstance(wanted[0] if isinstance(wanted, list) else wanted, kind)

    outcome, later = interrupt(program, ToyDevice().answer, is_due)
    assert later == []
    assert (outcome.picture, outcome.interrupted, outcome.before_faces) == (plain.picture, True, None)


def test_a_crowd_is_restored_group_by_group_from_the_picture_as_it_was():
    picture, device = toy_picture(96, 64), ToyDevice()
    (face,) = device.answer(FindFaces(GFPGAN, picture))

    def answer(call):
        return (face,) * 19 if isinstance(call, FindFaces) else device.answer(call)

    result, calls = drive(restored(picture, GFPGAN), answer)
    groups = [(kind.__name__, len(list(same))) for kind, same in groupby(calls, type)]
    assert [name for name, _ in groups] == ["FindFaces", *["RestoreFace", "ParseFace"] * 3]
    assert [size for _, size in groups] == [1, 8, 8, 8, 8, 3, 3]
    # Nineteen of the same face are laid upon each other, each turned over once.
    once, _ = outcome_of(Restore("r/0", picture, (FaceStep(GFPGAN, 1.0),)), restore)
    assert result == once.picture


def test_extras_restore_step_by_step():
    picture = toy_picture(96, 64)
    both = Restore("r/0", picture, (FaceStep(GFPGAN, 1.0), FaceStep(CODEFORMER, 1.0)))
    outcome, calls = outcome_of(both, restore)
    assert [call.restorer.kind for call in of(calls, FindFaces)] == ["GFPGAN", "CodeFormer"]
    assert of(calls, FindFaces)[1].picture != picture
    assert [(call.step, call.steps) for call in of(calls, Report)] == [(1, 2), (2, 2)]
    assert outcome.picture == picture  # turned over twice


def test_a_share_lets_the_picture_show_through():
    picture = toy_picture(96, 64)
    whole, _ = outcome_of(Restore("r/0", picture, (FaceStep(GFPGAN, 1.0),)), restore)
    half, _ = outcome_of(Restore("r/0", picture, (FaceStep(GFPGAN, 0.5),)), restore)
    expected = (levels(picture) + levels(whole.picture)) / 2
    assert np.abs(levels(half.picture) - expected).max() <= 1
    assert np.abs(levels(whole.picture) - levels(picture)).max() > 100


def test_extras_that_are_interrupted_have_nothing_to_show():
    program = restore(Restore("r/0", toy_picture(96, 64), (FaceStep(GFPGAN, 1.0),)))
    with pytest.raises(Interrupted):
        interrupt(program, ToyDevice().answer, lambda wanted: isinstance(wanted, list))
