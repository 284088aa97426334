"""How far what is seen lies from what training saw."""
