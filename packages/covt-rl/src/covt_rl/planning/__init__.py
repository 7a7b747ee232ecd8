"""What is checked and planned before a training starts: data, devices and memory. May not import training."""
