"""Units of systemd: of `llmfleet watch` on this machine, and of nodes that are to come back after a reboot."""
