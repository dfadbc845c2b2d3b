"""The devices that a sample may compute on, and what its sandbox must see of them."""

from pathlib import Path

from benchmarks.sandbox import Mount, SandboxUnavailable

CPU, CUDA = "cpu", "cuda"
DEVICES = (CPU, CUDA)
CUDA_NODES = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia[0-9]*")


def device_mounts(device: str) -> list[Mount]:
    """Device nodes for the sandbox. Raises SandboxUnavailable for CUDA on a machine without it, ValueError if unknown."""
    if device == CPU:
        return []
    if device != CUDA:
        raise ValueError(f"there is no device {device!r}; known devices: {', '.join(DEVICES)}")
    nodes = sorted(str(node) for pattern in CUDA_NODES for node in Path("/dev").glob(pattern))
    if not any(node[len("/dev/nvidia") :].isdigit() for node in nodes):
        raise SandboxUnavailable(
            "the job asks for CUDA, and this machine has no /dev/nvidia0: install the driver, or give the job to a "
            "runner of another hardware"
        )
    return [Mount(Path(node), node, writable=True, device=True) for node in nodes]
