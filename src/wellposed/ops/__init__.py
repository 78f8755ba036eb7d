"""Pure functions of tensors: norms, proximal operators, projections. No classes, no state, nothing modified."""
