"""Small things about sockets, time and addresses, which know nothing of inferd."""
