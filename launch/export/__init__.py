"""The same plan for other worlds, as files. Pure: an inventory and a plan in, texts out."""
