"""What a run sees of its site's own environment."""

from suan.engines.order import inherited


def test_a_run_gets_paths_and_device_settings_and_none_of_the_sites_secrets() -> None:
    site = {
        "PATH": "/usr/bin",
        "LC_ALL": "C.UTF-8",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "HF_HUB_OFFLINE": "1",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "HF_TOKEN": "s3cret",
        "SUAN_KEY": "s3cret",
        "DATABASE_URL": "s3cret",
    }
    assert inherited(site) == {name: value for name, value in site.items() if value != "s3cret"}
