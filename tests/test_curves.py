"""Control curves: frames, breakpoints, files and what is wrong with them."""

import subprocess
import sys

import numpy as np
import pytest

from ddspx import curves
from ddspx.curves import Breakpoints, CurveError, Curves


@pytest.fixture
def some(rng):
    f0 = 220.0 * 2.0 ** rng.normal(0, 0.2, 101)
    return Curves(250.0, {"f0_hz": f0, "loudness_db": rng.normal(-30, 9, 101)})


@pytest.mark.parametrize("suffix", [".csv", ".npy"])
def test_what_is_written_is_read_to_the_last_bit(some, tmp_path, suffix):
    path = tmp_path / f"curves{suffix}"
    curves.write(path, some)
    found = curves.read(path, some.frame_rate_hz)
    assert found.names == some.names
    for name in some.names:
        np.testing.assert_array_equal(found.values[name], some.values[name])
    # Longer than the file: it stands still.
    longer = curves.read(path, some.frame_rate_hz, 120).values["f0_hz"]
    np.testing.assert_array_equal(longer[100:], some.values["f0_hz"][-1])
    with pytest.raises(ValueError, match="exists already"):
        curves.write(path, some)
    curves.write(path, some, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [path.name]


def test_hours_keep_their_frames(tmp_path):
    # 44.1 kHz and a hop of 32: a rate with no short decimal, over seven minutes.
    long = Curves(44100 / 32, {"z": np.arange(600_000) % 1000})
    curves.write(tmp_path / "z.npy", long)
    found = curves.read(tmp_path / "z.npy", 44100 / 32)
    np.testing.assert_array_equal(found.values["z"], long.values["z"])


def test_breakpoints_go_from_one_to_the_next_by_their_shapes():
    points = Breakpoints(
        np.array([0.0, 1.0, 2.0, 3.0]),
        np.array([100.0, 400.0, 200.0, 300.0]),
        ("exponential", "hold", "smooth", "linear"),
    )
    at = [-1.0, 0.0, 0.5, 1.0, 1.99, 2.0, 2.25, 2.5, 3.0, 9.0]
    smooth = 200.0 + 100.0 * (3 * 0.25**2 - 2 * 0.25**3)
    wanted = [100, 100, 200, 400, 400, 200, smooth, 250, 300, 300]
    np.testing.assert_allclose(curves.sample(points, np.array(at)), wanted)


def test_lines_between_breakpoints_are_those_of_numpy(rng):
    times = np.sort(rng.uniform(0, 5, 20))
    points = Breakpoints(times, rng.normal(size=20))
    at = np.concatenate([rng.uniform(-1, 6, 500), times])
    wanted = np.interp(at, times, points.values)
    np.testing.assert_allclose(curves.sample(points, at), wanted, atol=1e-12)


def test_at_a_jump_the_later_value_holds(tmp_path):
    points = Breakpoints(np.array([0.0, 1.0, 1.0, 2.0]), np.array([0.0, 1.0, 5.0, 6.0]))
    found = curves.sample(points, np.array([0.5, 1.0, 1.5]))
    np.testing.assert_allclose(found, [0.5, 5.0, 5.5])
    curves.write_breakpoints(tmp_path / "jump.csv", {"z": points})
    back = curves.read_breakpoints(tmp_path / "jump.csv")["z"]
    np.testing.assert_array_equal(back.times_s, points.times_s)
    np.testing.assert_array_equal(back.values, points.values)


def test_breakpoints_of_several_curves_in_one_file(tmp_path, rng):
    given = {
        "loudness_db": Breakpoints(
            np.array([0.0, 0.5, 2.25]), np.array([-60, -20, -60])
        ),
        "mood": Breakpoints(
            np.array([0.5, 1.75]), np.array([0.0, 1.0]), ("smooth", "hold")
        ),
    }
    path = tmp_path / "drawn.csv"
    curves.write_breakpoints(path, given)
    assert path.read_text().splitlines()[:3] == [
        "time_s,loudness_db,mood,mood:shape",
        "0,-60,,",
        "0.5,-20,0,smooth",
    ]
    found = curves.read(path, 100.0, 300)
    times = np.arange(300) / 100.0
    for name, points in given.items():
        wanted = curves.sample(points, times)
        np.testing.assert_allclose(found.values[name], wanted, rtol=1e-6)
    # To the last breakpoint of any curve.
    assert curves.read(path, 100.0).frames == 226


def test_one_row_a_frame_needs_as_many_rows_as_frames(tmp_path):
    (tmp_path / "a.csv").write_text("loudness_db\n-60\n-50\n-40\n")
    found = curves.read(tmp_path / "a.csv", 10.0, 4).values["loudness_db"]
    np.testing.assert_array_equal(found, [-60, -50, -40, -40])
    with pytest.raises(CurveError, match=r"3 of them, where 30 frames .* time_s"):
        curves.read(tmp_path / "a.csv", 10.0, 30)
    np.save(tmp_path / "b.npy", np.array([[1.0, 2.0], [3.0, 4.0]]))
    found = curves.read(tmp_path / "b.npy", 10.0, names=("u", "v"))
    np.testing.assert_array_equal(found.values["v"], [2.0, 4.0])
    with pytest.raises(CurveError, match="2 curves without names"):
        curves.read(tmp_path / "b.npy", 10.0, names=("u",))


def test_resampling_keeps_lines_and_takes_means():
    line = Curves(100.0, {"z": 3.0 + 0.5 * np.arange(200)})
    for rate in (100.0, 160.0, 1000.0, 44100 / 512, 50.0, 31.25, 7.0):
        found = line.resampled(rate)
        assert found.frames == int(np.ceil(2.0 * rate))
        wanted = np.minimum(3.0 + 50.0 * found.times_s, 102.5)
        # Frames do not lie evenly under the triangles where rates have no ratio.
        tolerance = 1e-5 if (100 / rate) % 1 == 0 or rate >= 100 else 0.3
        np.testing.assert_allclose(found.values["z"], wanted, atol=tolerance)
    # What changes from frame to frame is gone, not folded down to a slow beat.
    fast = Curves(100.0, {"z": np.cos(np.pi * 0.98 * np.arange(200))})
    assert np.abs(fast.resampled(10.0).values["z"][1:-1]).max() < 0.02


def test_stretching_keeps_the_course():
    times = np.arange(300) / 100.0
    swing = Curves(100.0, {"z": np.sin(2 * np.pi * times)})
    slow = swing.stretched(1.5)
    assert slow.frames == 450 and slow.frame_rate_hz == 100.0
    wanted = np.sin(2 * np.pi * slow.times_s / 1.5)
    np.testing.assert_allclose(slow.values["z"][:448], wanted[:448], atol=1e-3)
    fast = swing.stretched(0.5)
    np.testing.assert_allclose(
        fast.values["z"][1:149], swing.values["z"][2:298:2], atol=5e-3
    )


def test_loops_repeat_and_fade_over_their_seam():
    ramp = Curves(10.0, {"z": np.arange(10.0)})
    held = ramp.lasting(13).values["z"]
    np.testing.assert_array_equal(held[8:], [8, 9, 9, 9, 9])
    np.testing.assert_array_equal(ramp.lasting(4).values["z"], [0, 1, 2, 3])
    again = ramp.lasting(25, loop=True).values["z"]
    np.testing.assert_array_equal(again, np.arange(25) % 10)
    faded = ramp.lasting(40, loop=True, fade_frames=4).values["z"]
    np.testing.assert_array_equal(faded[:6], np.arange(6))
    # From 5 over (6, 0), (7, 1) ... to 4, and so on every six frames.
    seam = [6 * 0.8 + 0 * 0.2, 7 * 0.6 + 1 * 0.4, 8 * 0.4 + 2 * 0.6, 9 * 0.2 + 3 * 0.8]
    np.testing.assert_allclose(faded[6:12], [*seam, 4, 5], rtol=1e-6)
    np.testing.assert_array_equal(faded[12:18], faded[6:12])
    assert np.abs(np.diff(faded)).max() < 1.5


def test_a_recording_finds_its_drawn_curves(tmp_path):
    (tmp_path / "rain.csv").write_text("time_s,mood,other\n0,0,5\n1,1,5\n")
    found = curves.read_beside(tmp_path / "rain.wav", ("mood",), 4.0, 5)
    assert list(found) == ["mood"]
    np.testing.assert_allclose(found["mood"], [0, 0.25, 0.5, 0.75, 1.0])
    assert curves.read_beside(tmp_path / "none.wav", (), 4.0, 5) == {}
    with pytest.raises(CurveError, match=r"expected them in none\.csv or none\.npy"):
        curves.read_beside(tmp_path / "none.wav", ("mood",), 4.0, 5)
    with pytest.raises(CurveError, match="has the curves mood, other, not size"):
        curves.read_beside(tmp_path / "rain.wav", ("size",), 4.0, 5)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "first line must name the columns"),
        ("0,1\n1,2\n", "first line must name the columns"),
        ("time_s,z\n", "holds no curve"),
        ("time_s\n1\n", "holds no curve"),
        ("time_s,z\n0\n", "row 1 has 1 cells, expected 2"),
        ("time_s,z\n0,loud\n", "'loud' in row 1, expected a number"),
        ("time_s,z\n0,nan\n", "'nan' in row 1"),
        ("time_s,z\n1,1\n0,2\n", "goes back in time, from 1 to 0 s"),
        ("time_s,z,z\n0,1,1\n", "named twice"),
        ("time_s,z,y\n0,1,\n", "'y' has no breakpoint"),
        ("time_s,z,z:shape\n0,1,curvy\n", "shape 'curvy'; use linear, hold"),
        ("time_s,z,z:shape\n0,-1,exponential\n1,1,hold\n", "not positive"),
        ("time_s,z,y:shape\n0,-1,hold\n", "beside no curve"),
        ("z,z:shape\n0,hold\n", "needs the column time_s"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, text, says):
    path = tmp_path / "wrong.csv"
    path.write_text(text)
    with pytest.raises(CurveError, match=says) as error:
        curves.read(path, 100.0)
    assert str(path) in str(error.value)


def test_what_is_no_curve_is_refused(tmp_path):
    with pytest.raises(CurveError, match="as many in each"):
        Curves(10.0, {"a": np.zeros(3), "b": np.zeros(4)})
    with pytest.raises(CurveError, match=r"'a' is not finite at 0\.200 s \(frame 2\)"):
        Curves(10.0, {"a": np.array([0.0, 1.0, np.nan])})
    with pytest.raises(CurveError, match="frame_rate_hz 0"):
        Curves(0.0, {})
    with pytest.raises(CurveError, match="cannot be read: no such file"):
        curves.read(tmp_path / "none.csv", 10.0)
    with pytest.raises(CurveError, match=r"read from \.csv or \.npy"):
        curves.read(tmp_path / "none.txt", 10.0)
    np.save(tmp_path / "words.npy", np.array(["a", "b"]))
    with pytest.raises(CurveError, match="expected numbers"):
        curves.read(tmp_path / "words.npy", 10.0)
    (tmp_path / "broken.npy").write_bytes(b"nothing of the kind")
    with pytest.raises(CurveError, match="no NPY array"):
        curves.read(tmp_path / "broken.npy", 10.0)


def test_curves_do_not_load_jax():
    code = "import sys, ddspx.curves; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_walk_is_smooth_of_unit_power_and_the_same_in_parts():
    times = np.arange(20_000) / 100.0
    whole = curves.smooth_walk((3, 1), times, 5.0, 4)
    parts = [curves.smooth_walk((3, 1), part, 5.0, 4) for part in np.split(times, 8)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    # A thousand points a path.
    np.testing.assert_allclose(whole.std(0), 1.0, rtol=0.1)
    assert np.abs(np.corrcoef(whole.T) - np.eye(4)).max() < 0.15
    # 20 frames from point to point: no step of a smooth path is over 1.5 / 20 of it.
    assert np.abs(np.diff(whole, axis=0)).max() < 1.5 * np.ptp(whole) / 20
    other = curves.smooth_walk((3, 2), times, 5.0, 4)
    assert np.abs(other - whole).max() > 1.0
    with pytest.raises(curves.CurveError, match="wander_hz nan"):
        curves.smooth_walk((0,), times, float("nan"))
