"""Whether scaling wants more nodes of a class than there are: then none of its devices is lent."""

from __future__ import annotations

from gainshare.capacity.models import DeviceClass
from gainshare.capacity.scaling.wanted import wanted_rows


def is_wanted(device_class: DeviceClass) -> bool:
    """Whether a served model lacks nodes of this class, or nothing has been decided for it yet."""
    if device_class.served_models.filter(scaling=None).exists():
        return True
    rows = [row for row in wanted_rows() if row.device_class == device_class.name]
    return any(row.wanted > row.starting + row.ready for row in rows)
