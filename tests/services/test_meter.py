"""The meter over a kernel's counters as files, and over NVIDIA's library as a small one of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleetssd.adapters.trainer_process.meter import Meters, metered, spent

NVML = """
static unsigned long long now = 5000;
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int number, void **device) {
  *device = (void *)(long)(number + 1);
  return number > 1;
}
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *joules) {
  *joules = now * (unsigned long long)(long)device;
  now += 1500;
  return 0;
}
"""
"""Device n has used n + 1 times as much as device 0, which uses 1.5 J between two readings; there are two devices."""


def zone(rapl: Path, folder: str, name: str, microjoules: int, most: int = 10**9) -> Path:
    """Write one of the kernel's counters."""
    path = rapl / folder
    path.mkdir(parents=True)
    (path / "name").write_text(f"{name}\n")
    (path / "energy_uj").write_text(f"{microjoules}\n")
    (path / "max_energy_range_uj").write_text(f"{most}\n")
    return path / "energy_uj"


@pytest.fixture
def meters(tmp_path: Path) -> Meters:
    """Return a machine that tells nothing yet."""
    return Meters(tmp_path / "powercap", str(tmp_path / "none.so"))


def test_a_machine_that_tells_no_energy_has_none(meters: Meters, tmp_path: Path) -> None:
    """Without a counter the energy is null, never 0; processor seconds are known all the same."""
    with metered(tmp_path, "cpu", meters):
        subprocess.run([sys.executable, "-c", "sum(range(10**6))"], check=True)
    found = spent(tmp_path)
    assert found["energy_joules"] is None
    assert found["gpu_seconds"] == 0.0
    assert found["cpu_seconds"] is not None
    assert found["cpu_seconds"] > 0


def test_packages_and_memory_count_once(meters: Meters, tmp_path: Path) -> None:
    """Two packages and a memory are summed; cores, which are in a package, and a platform, which holds all, are not."""
    zones = [
        zone(meters.rapl, "intel-rapl:0", "package-0", 1_000_000),
        zone(meters.rapl, "intel-rapl:1", "package-1", 0),
        zone(meters.rapl, "intel-rapl:0:1", "dram", 0),
        zone(meters.rapl, "intel-rapl:0:0", "core", 0),
        zone(meters.rapl, "intel-rapl:2", "psys", 0),
    ]
    with metered(tmp_path, "cpu", meters):
        for number, path in enumerate(zones):
            path.write_text(str(int(path.read_text()) + 1_000_000 * 10**number))
    assert spent(tmp_path)["energy_joules"] == 111.0


def test_a_counter_that_starts_again_loses_nothing(meters: Meters, tmp_path: Path) -> None:
    """A counter past its range is read as the rest of the range and what came after."""
    path = zone(meters.rapl, "intel-rapl:0", "package-0", 900_000_000, most=1_000_000_000)
    with metered(tmp_path, "cpu", meters):
        path.write_text("50000000")
    assert spent(tmp_path)["energy_joules"] == 150.0


def test_a_counter_that_may_not_be_read_is_left_out(meters: Meters, tmp_path: Path) -> None:
    """A zone without a readable counter is as good as none."""
    zone(meters.rapl, "intel-rapl:0", "package-0", 0).unlink()
    with metered(tmp_path, "cpu", meters):
        pass
    assert spent(tmp_path)["energy_joules"] is None


def test_all_starts_of_a_run_are_summed(meters: Meters, tmp_path: Path) -> None:
    """A run that was stopped and resumed costs both starts, however they ended; one left unread makes all null."""
    path = zone(meters.rapl, "intel-rapl:0", "package-0", 0)

    def stopped() -> None:
        with metered(tmp_path, "cpu", meters):
            path.write_text("2000000")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    with metered(tmp_path, "cpu", meters):
        path.write_text("5000000")
    assert spent(tmp_path)["energy_joules"] == 5.0
    path.unlink()
    with metered(tmp_path, "cpu", meters):
        pass
    assert spent(tmp_path)["energy_joules"] is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler makes the library")
@pytest.mark.parametrize(("device", "joules"), [("cuda", 1.5), ("cuda:0", 1.5), ("cuda:1", 3.0), ("cuda:7", None)])
def test_an_nvidia_device_tells_its_own_energy(
    meters: Meters, tmp_path: Path, device: str, joules: float | None
) -> None:
    """The planned device is asked before and after, in millijoules; one that is not there tells nothing."""
    (tmp_path / "nvml.c").write_text(NVML)
    library = tmp_path / f"nvml-{device.replace(':', '-')}.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(tmp_path / "nvml.c")], check=True)
    with metered(tmp_path, device, Meters(meters.rapl, str(library))):
        subprocess.run([sys.executable, "-c", ""], check=True)
    found = spent(tmp_path)
    assert found["energy_joules"] == joules
    assert found["gpu_seconds"] is not None
    assert found["gpu_seconds"] > 0


def test_energy_of_processor_and_device_is_one_sum(meters: Meters, tmp_path: Path) -> None:
    """A device without a library costs what the processor tells."""
    path = zone(meters.rapl, "intel-rapl:0", "package-0", 0)
    with metered(tmp_path, "cuda:0", meters):
        path.write_text("4000000")
    assert spent(tmp_path)["energy_joules"] == 4.0
