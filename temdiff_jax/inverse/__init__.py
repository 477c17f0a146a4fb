"""The linear-Gaussian inverse problem: precision, quadratic estimate, solver."""
