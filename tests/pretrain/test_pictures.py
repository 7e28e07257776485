import numpy as np
import torch
from PIL import Image
from pretrain_runs import steps, train

from pretrain.pictures import draw


def test_rows_and_frames_are_where_they_belong():
    shade = torch.linspace(0, 1, 8).view(1, 1, 8, 1, 1).expand(2, 3, 8, 96, 96).clone()
    picture = np.asarray(draw({"input": shade, "masked": 1 - shade}, num_frames=4))
    height = picture.shape[0] // 2
    assert picture.shape == (200, 110 + 2 * 4 * 96 + 4, 3)
    centres = [110 + 48 + 96 * number for number in range(4)]
    expected = (np.array([1, 3, 5, 7]) / 7 * 255).round()
    assert np.abs(picture[48, centres, 0] - expected).max() <= 1
    assert np.abs(picture[height + 48, centres, 0] - (255 - expected)).max() <= 1


def test_pictures_show_the_same_clips_as_training_goes_on(tmp_path, shards, held_out):
    run = tmp_path / "run"
    train(run, shards, *steps(5), "--pictures.every_n_steps=2", "--data.val_shards", str(held_out))
    found = sorted((run / "pictures").glob("*.png"))
    assert [path.stem for path in found] == ["step-00000002", "step-00000004", "step-00000005"]
    first, last = (np.asarray(Image.open(path)) for path in (found[0], found[-1]))
    row = first.shape[0] // 5  # input, masked, prediction, motion, predicted motion
    for number in (0, 1, 3):
        part = slice(number * row, (number + 1) * row)
        assert (first[part] == last[part]).all()
    for number in (2, 4):
        part = slice(number * row, (number + 1) * row)
        assert (first[part] != last[part]).any()
