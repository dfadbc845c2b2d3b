"""The control loop: observe, ask the policy, write the decision down, have an actuator carry it out."""
