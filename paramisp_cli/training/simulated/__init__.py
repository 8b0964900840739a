"""Data sets without photographs: shots of linear scenes by simulated cameras."""
