"""What the threads of a node share: inboxes and priorities."""
