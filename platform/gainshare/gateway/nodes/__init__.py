"""Model nodes as the gateway sees them: their HTTP client, the shared view of the pool, and the place of a request."""

from gainshare.gateway.nodes.client import DeadlinePassed, NodeStreamError, TokenCount
from gainshare.gateway.nodes.pool import ModelNode, NodePool, node_pool

__all__ = ["DeadlinePassed", "ModelNode", "NodePool", "NodeStreamError", "TokenCount", "node_pool"]
