"""The most bytes of tensors that live at once."""

import torch

from ddpm.footprint import footprint

KIB = 256  # floats


def test_what_lives_at_once_is_counted():
    def compute():
        a = torch.zeros(4 * KIB)
        b = a + 1  # both live: 8 KiB
        del a
        c = b * 2  # again 8
        del b
        return torch.cat([c, c, c])  # 4 and 12

    assert footprint(compute) == 16 * 1024


def test_views_and_what_is_written_in_place_take_nothing():
    def compute():
        a = torch.zeros(4 * KIB)
        a.view(2, -1).transpose(0, 1).add_(1.0)

    assert footprint(compute) == 4 * 1024


def test_what_was_there_before_is_not_counted():
    given = torch.ones(64 * KIB)
    assert footprint(lambda: given.sum()) == 4


def test_a_net_s_grows_with_its_batch():
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 3, padding=1)
    )
    with torch.no_grad():
        one, three = (footprint(lambda n=n: net(torch.zeros(n, 3, 16, 16))) for n in (1, 3))
    # Its input, what the first layer makes and what the second does of it.
    assert one == 4 * 16 * 16 * (3 + 8 + 8) and three == 3 * one
