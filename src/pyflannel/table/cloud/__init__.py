"""Route tables of clouds: one generic table over a narrow contract, and a fabric per cloud that fulfils it."""
