"""Series: gains of one lineage, suite and hardware, each measured against the best tree before it.

What a gain is measured against, in which order gains are booked, and what becomes of copies, slow bases and moved trees.
"""
