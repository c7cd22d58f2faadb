"""The GPU as NVML sees it: presence, clock, power, energy, temperature. No framework is imported."""

import shutil
import subprocess
import threading
import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """One look at the card."""

    sm_mhz: float
    power_w: float
    temperature_c: float


class Gpu:
    """One card, through pynvml where it is installed, else through nvidia-smi (slower: about 30 ms a look)."""

    def __init__(self, index: int = 0) -> None:
        self._index = index
        self._nvml: Any = None
        self._handle: Any = None
        try:
            import pynvml  # pyright: ignore[reportMissingImports]

            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            self._nvml = pynvml
        except Exception:
            if shutil.which("nvidia-smi") is None:
                raise RuntimeError("no NVIDIA GPU: neither NVML nor nvidia-smi is here") from None
        self.name, self.driver = self._identity()

    def read(self) -> Reading:
        if self._nvml is None:
            clock, power, temperature = self._smi("clocks.sm,power.draw,temperature.gpu")
            return Reading(sm_mhz=float(clock), power_w=float(power), temperature_c=float(temperature))
        n = self._nvml
        return Reading(
            sm_mhz=float(n.nvmlDeviceGetClockInfo(self._handle, n.NVML_CLOCK_SM)),
            power_w=n.nvmlDeviceGetPowerUsage(self._handle) / 1e3,
            temperature_c=float(n.nvmlDeviceGetTemperature(self._handle, n.NVML_TEMPERATURE_GPU)),
        )

    def joules(self) -> float | None:
        """The card's energy counter; None where it has none."""
        try:
            return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3 if self._nvml else None
        except Exception:
            return None

    def _identity(self) -> tuple[str, str]:
        if self._nvml is None:
            name, driver = self._smi("name,driver_version")
            return name, driver
        name = self._nvml.nvmlDeviceGetName(self._handle)
        driver = self._nvml.nvmlSystemGetDriverVersion()
        return tuple(s.decode() if isinstance(s, bytes) else s for s in (name, driver))  # type: ignore[return-value]

    def _smi(self, query: str) -> list[str]:
        command = [
            "nvidia-smi",
            f"--id={self._index}",
            f"--query-gpu={query}",
            "--format=csv,noheader,nounits",
        ]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if answer.returncode or not answer.stdout.strip():
            raise RuntimeError(f"no NVIDIA GPU: nvidia-smi says {answer.stdout.strip() or answer.stderr.strip()!r}")
        return [part.strip() for part in answer.stdout.strip().splitlines()[0].split(",")]


def find() -> Gpu | None:
    """The GPU, or None."""
    try:
        return Gpu()
    except Exception:
        return None


@dataclass
class Watch:
    """Reads the card every ``interval`` seconds while the ``with`` block runs. Without a card it does nothing."""

    gpu: Gpu | None
    interval: float = 0.05
    readings: list[Reading] = field(default_factory=list)
    seconds: float = 0.0
    joules: float | None = None

    def __enter__(self) -> "Watch":
        self._stop = threading.Event()
        self._start = time.monotonic()
        self._energy = self.gpu.joules() if self.gpu else None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        end = self.gpu.joules() if self.gpu else None
        self.seconds = time.monotonic() - self._start
        if end is not None and self._energy is not None:
            self.joules = end - self._energy
        self._stop.set()
        self._thread.join()

    @property
    def power_w(self) -> float | None:
        """Mean power: from the energy counter over half a second or more (it ticks every 0.1 s), else the readings."""
        if self.joules and self.seconds >= 0.5:
            return self.joules / self.seconds
        return median(r.power_w for r in self.readings) if self.readings else None

    def summary(self) -> dict | None:
        """Median clock, power and temperature, and the lowest clock; None without a reading."""
        if not self.readings:
            return None
        return {
            "sm_mhz": median(r.sm_mhz for r in self.readings),
            "sm_mhz_low": min(r.sm_mhz for r in self.readings),
            "power_w": round(median(r.power_w for r in self.readings), 1),
            "temperature_c": median(r.temperature_c for r in self.readings),
        }

    def _run(self) -> None:
        while self.gpu is not None and not self._stop.is_set():
            try:
                self.readings.append(self.gpu.read())
            except Exception:
                return
            self._stop.wait(self.interval)
