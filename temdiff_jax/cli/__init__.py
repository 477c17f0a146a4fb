"""The command `temdiff`: a thin door to the library, computing nothing itself."""
