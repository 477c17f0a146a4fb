"""The command `temdiff`: a thin layer over the library, computing nothing itself."""
