"""The judged load, short: `python -m benchmarks.soak` is the long one."""

from benchmarks.soak import soak


def test_no_acknowledged_upload_is_lost_and_none_comes_twice_when_the_server_is_killed(models_dir, database_url):
    report = soak(16, minutes=0.15, kills=2, environ={
        "DATABASE_URL": database_url, "SHUTTERLESS_MODEL": "colours", "SHUTTERLESS_MODELS_DIR": str(models_dir)})
    assert report["acknowledged"] > 0
    assert (report["lost"], report["twice"], report["wrong"]) == (0, 0, 0), report
    assert set(report["refused"]) <= {503}, report
