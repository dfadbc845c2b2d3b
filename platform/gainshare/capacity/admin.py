"""The pool's tables in the admin. Each room registers its own."""

from gainshare.capacity.deployments import admin as deployments_admin
from gainshare.capacity.pool import admin as pool_admin
from gainshare.capacity.scaling import admin as scaling_admin

__all__ = ["deployments_admin", "pool_admin", "scaling_admin"]
