"""fleetssd: nightly simple self-distillation for fleets of coding agents."""
