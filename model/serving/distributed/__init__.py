"""One model served by several processes on one machine: tensor and expert parallel."""
